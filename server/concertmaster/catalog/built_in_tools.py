"""The names of the worker tools that a server has, if its operator allows them all."""

BUILT_IN_TOOLS = frozenset(
    {
        "arxiv_search",
        "code_execution",
        "fetch_url",
        "lint",
        "list_files",
        "python",
        "read_file",
        "run_tests",
        "search_files",
        "web_fetch",
        "web_search",
    }
)
"""A worker file may name them everywhere; where one is missing, the worker goes without."""
