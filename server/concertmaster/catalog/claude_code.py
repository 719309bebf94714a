"""What a Claude Code subagent file may say that a worker file has no use for."""

KEYS = frozenset(
    {
        "background",
        "color",
        "effort",
        "experimental",
        "hooks",
        "initialPrompt",
        "isolation",
        "memory",
        "omitClaudeMd",
        "permissionMode",
        "skills",
    }
)
"""Header keys that mean nothing here."""

SAME_TOOLS = {
    "Glob": "list_files",
    "Grep": "search_files",
    "LS": "list_files",
    "Read": "read_file",
    "WebFetch": "fetch_url",
    "WebSearch": "web_search",
}
"""The worker tool that does the work of a Claude Code tool."""

OTHER_TOOLS = frozenset(
    {
        "Agent",
        "AskUserQuestion",
        "Bash",
        "BashOutput",
        "CronCreate",
        "CronDelete",
        "CronList",
        "Edit",
        "EnterPlanMode",
        "EnterWorktree",
        "ExitPlanMode",
        "ExitWorktree",
        "KillBash",
        "KillShell",
        "LSP",
        "ListMcpResourcesTool",
        "Monitor",
        "MultiEdit",
        "NotebookEdit",
        "NotebookRead",
        "PowerShell",
        "ReadMcpResourceTool",
        "SendMessage",
        "Skill",
        "SlashCommand",
        "Task",
        "TaskCreate",
        "TaskGet",
        "TaskList",
        "TaskOutput",
        "TaskStop",
        "TaskUpdate",
        "TeamCreate",
        "TeamDelete",
        "TodoRead",
        "TodoWrite",
        "ToolSearch",
        "Write",
    }
)
"""Claude Code tools that no worker tool stands in for."""
