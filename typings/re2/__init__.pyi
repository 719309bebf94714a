# What Concertmaster uses of google-re2, which comes without types.

class error(Exception): ...  # noqa: N801, N818

class Options:
    case_sensitive: bool
    literal: bool
    log_errors: bool
    max_mem: int

class _Regexp:
    def search(self, text: str) -> object | None: ...

def compile(pattern: str, options: Options | None = None) -> _Regexp: ...  # noqa: A001
