"""What our style asks of every Python file and no tool checks: pure functions of a text."""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
#: Of one folder, besides `__init__` and `__main__`: with more, its nouns want folders of their own.
FOLDER_MODULES_MAX = 14

#: Written in halves, or this file would break its own rule.
_UNFINISHED = re.compile(rf"\b({'TO' + 'DO'}|{'FIX' + 'ME'}|{'X' + 'XX'})\b")
_NOUNLESS = re.compile(r"(^|_)(utils?|common|helpers?|managers?|misc|stuff)(_|$)")
_SUPPRESSION = re.compile(r"#\s*(noqa|type:\s*ignore)(.*)")
_WITH_CODE_AND_REASON = {
    "noqa": re.compile(r"\s*:\s*[A-Z]+[0-9]+(\s*,\s*[A-Z]+[0-9]+)*\s+(--|#)\s*\S"),
    "type: ignore": re.compile(r"\[[a-z-]+(\s*,\s*[a-z-]+)*\]\s*#\s*\S"),
}


def long_file(path: str, text: str) -> Iterator[str]:
    """A file that has outgrown what a reader holds in mind."""
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{path}: {lines} lines, at most {FILE_LINES_MAX}"


def long_functions(path: str, text: str) -> Iterator[str]:
    """Functions that do not fit on a screen."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines, at most 60"


def logic_in_init(path: str, text: str) -> Iterator[str]:
    """Anything but a docstring, imports and __all__: the door is not the house."""
    if not path.endswith("__init__.py"):
        return
    for node in ast.parse(text).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        exported = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        if not (docstring or exported or isinstance(node, ast.Import | ast.ImportFrom)):
            yield f"{path}:{node.lineno}: logic in __init__"


def bare_suppressions(path: str, text: str) -> Iterator[str]:
    """A silenced check without its code, or without the reason why it is wrong here."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        for found in _SUPPRESSION.finditer(token.string):
            kind = "noqa" if found[1] == "noqa" else "type: ignore"
            if not _WITH_CODE_AND_REASON[kind].match(found[2]):
                yield f"{path}:{token.start[0]}: {found[0]!r} lacks its code or its reason"


def unfinished(path: str, text: str) -> Iterator[str]:
    """Marks of work left for later."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := _UNFINISHED.search(line):
            yield f"{path}:{number}: {found[0]}"


def nounless_names(path: str, text: str) -> Iterator[str]:
    """Files and classes whose name says that the noun is missing."""
    for part in path.removesuffix(".py").split("/"):
        if _NOUNLESS.search(part):
            yield f"{path}: {part!r} is no noun of the glossary"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name).lower()
            if _NOUNLESS.search(snake):
                yield f"{path}:{node.lineno}: {node.name!r} is no noun of the glossary"


def crowded_folders(paths: Iterable[str]) -> Iterator[str]:
    """Folders with more modules than a reader takes in at a glance."""
    folders = Counter(
        path.rpartition("/")[0]
        for path in paths
        if not path.endswith(("__init__.py", "__main__.py"))
    )
    for folder, count in sorted(folders.items()):
        if count > FOLDER_MODULES_MAX:
            yield f"{folder}: {count} modules, at most {FOLDER_MODULES_MAX}"


#: What runs something beside its caller, and where a person has looked at what becomes of errors.
_BESIDE = frozenset(
    (
        *("Thread", "Timer", "Process", "start_new_thread", "ThreadPoolExecutor"),
        *("ProcessPoolExecutor", "create_task", "ensure_future", "run_coroutine_threadsafe"),
        *("run_in_executor", "TaskGroup", "create_task_group", "start_soon", "Popen"),
    )
)
BESIDE_ALLOWED = {
    "libs/access/audit_log.py": "each request that is recorded waits for its error",
    "libs/runtime/threads.py": "the one way to start a thread",
    "services/catalog/copies/replicator.py": "`map` hands errors to the caller, which waits",
    "services/catalog/deletion/collector.py": "`map` hands errors to the caller, which waits",
    "services/catalog/recovery/absence.py": "`map` hands errors to the caller, which waits",
    "services/catalog/verification/jobs.py": "a job keeps its error for whoever asked",
    "services/change_capture/agent/publishing.py": "`end_with` looks at the task",
    "services/change_capture/barrier/hold.py": "`start_thread` watches the process",
    "services/change_capture/filter/disk.py": "`map` hands errors to the caller, which waits",
    "services/change_capture/filter/handover/upgrade.py": "`start_thread` watches the process",
    "services/change_capture/coordinator/__main__.py": "`end_with`, or the caller waits for orders",
    "services/chunker/__main__.py": "lanes: `end_with` looks at each step",
    "services/chunker/packer.py": "uploads: `end_with` looks at each, its owner meets the error",
    "libs/restoring/restore.py": "whoever restores waits for each fetch",
    "services/restore/__main__.py": "downloads wait for each piece",
}


def lone_threads(path: str, text: str) -> Iterator[str]:
    """A thread, task or executor outside of `libs.runtime`: it could end without a word."""
    if not path.startswith(("libs/", "services/")) or path in BESIDE_ALLOWED:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and _name_of(node.func) in _BESIDE:
            name = _name_of(node.func)
            yield f"{path}:{node.lineno}: {name}: use start_thread, or a Loop of libs.runtime.loops"


def lone_connections(path: str, text: str) -> Iterator[str]:
    """A connection to Postgres that does not bring its own settings."""
    if not path.startswith(("libs/", "services/")) or path == "libs/catalogdb/connecting.py":
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("psycopg.connect", "Connection.connect")
        ):
            yield f"{path}:{node.lineno}: use libs.catalogdb.connecting.connect"


def _name_of(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]


ALL = (
    long_file,
    long_functions,
    logic_in_init,
    bare_suppressions,
    unfinished,
    nounless_names,
    lone_threads,
    lone_connections,
)
