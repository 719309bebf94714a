"""The calls of a run made bare: the SDK and a task group. Arguments: base URL, count."""

import sys

import anyio
from anthropic import AsyncAnthropic


async def main(base_url: str, calls: int) -> None:
    """Make the calls, eight at a time."""
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

        async with anyio.create_task_group() as tasks:
            for _ in range(calls):
                tasks.start_soon(call)


anyio.run(main, sys.argv[1], int(sys.argv[2]))
