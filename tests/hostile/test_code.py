"""Attempts of code in the sandbox to reach anything that it was not given."""

from pathlib import Path

import pytest

from concertmaster.llm.messages import Document
from concertmaster.tools.builtin.python import Python
from concertmaster.tools.scope import ToolScope
from hostile_world import SECRET, World, outcome

pytestmark = pytest.mark.anyio

READS = [
    "print(open('{base}/secret.txt').read())",
    "print(open('{root}/.env', 'rb').read())",
    "with open('{base}/secret.txt') as file:\n    print(file.read())",
    "from pathlib import Path\nprint(Path('{base}/secret.txt').read_text())",
    "from pathlib import Path\nprint(Path('{base}/secret.txt').read_bytes())",
    "import pathlib\nprint(pathlib.Path('{root}', '..', 'secret.txt').open().read())",
    "import os\nprint(os.read(os.open('{base}/secret.txt', os.O_RDONLY), 99))",
    "import os\nprint(os.environ['ANTHROPIC_API_KEY'])",
    "import os\nprint(dict(os.environ))",
    "import os\nprint(os.getenv('ANTHROPIC_API_KEY'))",
    "from os import environ\nprint(environ.get('ANTHROPIC_API_KEY'))",
    "import os\nprint(os.popen('cat {base}/secret.txt').read())",
    "import subprocess\nprint(subprocess.check_output(['cat', '{base}/secret.txt']))",
    "from subprocess import run\nprint(run(['cat', '{base}/secret.txt'], capture_output=True))",
    "print(__import__('os').environ)",
    "print(__builtins__.__import__('os').environ)",
    "import builtins\nprint(builtins.open('{base}/secret.txt').read())",
    "import importlib\nprint(importlib.import_module('os').environ)",
    "import io\nprint(io.open('{base}/secret.txt').read())",
    "import io\nprint(io.FileIO('{base}/secret.txt').read())",
    "import codecs\nprint(codecs.open('{base}/secret.txt').read())",
    "import shutil\nshutil.copy('{base}/secret.txt', '{base}/c')\nprint(open('{base}/c').read())",
    "import linecache\nprint(linecache.getlines('{base}/secret.txt'))",
    "import fileinput\nprint(list(fileinput.input('{base}/secret.txt')))",
    "import mmap\nfile = open('{base}/secret.txt')\nprint(mmap.mmap(file.fileno(), 0, prot=1)[:])",
    "import ctypes\nprint(ctypes.CDLL(None), open('{base}/secret.txt').read())",
    "import glob\nprint([open(name).read() for name in glob.glob('{base}/*.txt')])",
    "eval(\"print(open('{base}/secret.txt').read())\")",
    'exec("import os; print(os.environ)")',
    "exec(compile(\"print(open('{base}/secret.txt').read())\", 'x', 'exec'))",
    "print((lambda: 0).__globals__['__builtins__'].open('{base}/secret.txt').read())",
    "print(print.__self__.open('{base}/secret.txt').read())",
    "print(print.__self__.__import__('os').environ)",
    "print([c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close']"
    "[0].__init__.__globals__['environ'])",
    "print([c for c in object.__subclasses__() if 'Popen' in c.__name__] or "
    "__import__('os').environ)",
    "print(type('x', (), {{}}).__mro__[1].__subclasses__() and __import__('os').environ)",
    "print(getattr(__import__('o' + 's'), 'env' + 'iron'))",
    "try:\n    1 / 0\nexcept Exception as e:\n    print(e.__traceback__.tb_frame.f_builtins"
    "['open']('{base}/secret.txt').read())",
    "print('{{0.__class__}}'.format(open) and open('{base}/secret.txt').read())",
    "import json\nprint(json.load.__globals__['__builtins__']['open']('{base}/secret.txt').read())",
    "import re\nprint(re.enum.sys.modules['os'].environ)",
    "import sys\nprint(sys.modules['os'].environ)",
    "import asyncio\nasync def f():\n    return open('{base}/secret.txt').read()\n"
    "print(asyncio.run(f()))",
    "import csv\nprint(list(csv.reader(open('{base}/secret.txt'))))",
    "import tempfile, os\nprint(os.environ)",
    "import platform\nprint(platform.os.environ)",
    "import pickle\nprint(pickle.loads(b\"cos\\ngetenv\\n(S'ANTHROPIC_API_KEY'\\ntR.\"))",
]

WRITES = [
    "open('{base}/mark', 'w').write('x')",
    "from pathlib import Path\nPath('{base}/mark').write_text('x')",
    "from pathlib import Path\nPath('{base}/mark').touch()",
    "from pathlib import Path\nPath('{base}/mark').mkdir()",
    "import os\nos.mkdir('{base}/mark')",
    "import os\nos.system('touch {base}/mark')",
    "import os\nos.rename('{base}/secret.txt', '{base}/mark')",
    "import os\nos.symlink('{base}/secret.txt', '{base}/mark')",
    "import subprocess\nsubprocess.run(['touch', '{base}/mark'])",
    "import shutil\nshutil.copy('{base}/secret.txt', '{base}/mark')",
    "import sqlite3\nsqlite3.connect('{base}/mark').execute('create table t (x)')",
    "import socket\nsocket.socket(socket.AF_UNIX).bind('{base}/mark')",
]


@pytest.mark.parametrize("code", READS)
async def test_no_code_reads_a_secret(world: World, code: str) -> None:
    scope = ToolScope(inputs=(Document(name="a.csv", text="n\n1\n"),), roots=(world.root,))
    assert SECRET not in await outcome(Python(), {"code": world.spell(code)}, scope)


@pytest.mark.parametrize("code", WRITES)
async def test_no_code_leaves_a_trace(world: World, code: str) -> None:
    before = tree(world.base)
    await outcome(Python(), {"code": world.spell(code)}, world.scope)
    assert tree(world.base) == before


def tree(folder: Path) -> set[Path]:
    return set(folder.iterdir())
