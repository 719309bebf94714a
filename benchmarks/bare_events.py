"""The calls of runs made bare, reading raw events. Argument: base URL."""

import sys
import time

import anyio
from anthropic import AsyncAnthropic


async def main(base_url: str) -> None:
    """Print the CPU seconds of 5 times 51 calls, eight at a time, after one to warm up."""
    slots = anyio.CapacityLimiter(8)
    async with AsyncAnthropic(api_key="none", base_url=base_url) as client:

        async def call() -> None:
            async with slots:
                stream = await client.messages.create(
                    model="claude-sonnet-5-5",
                    max_tokens=1000,
                    system="You are a worker.",
                    messages=[{"role": "user", "content": "Do your part. " * 100}],
                    stream=True,
                )
                async for _ in stream:
                    pass

        async def calls(count: int) -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(call)

        await calls(1)
        started = time.process_time()
        for _ in range(5):
            await calls(51)
        sys.stdout.write(str(time.process_time() - started))


anyio.run(main, sys.argv[1])
