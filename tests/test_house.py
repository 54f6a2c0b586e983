"""The rules of the code base as tests: where code stands, what it imports, how long it is, how it is named."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.prose import check_files

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "archwright"
FILES = sorted(SOURCE.rglob("*.py"))

GROUND = (
    *("errors", "python_process", "settings", "home", "store", "journal", "scalars", "specfile", "http_client"),
    *("crypto", "sqlite_files"),
)
# Package -> packages it may import besides the ground and `contract` (docs/map.md draws it).
PACKAGES: dict[str, set[str]] = {
    "contract": set(),
    "catalog": set(),
    "policy": set(),
    "monitor": set(),
    "needs": {"catalog"},
    "sizing": {"catalog"},
    "access": {"monitor", "policy"},
    "engines": {"monitor"},
    "simulate": {"catalog", "sizing", "policy"},
    "plan": {"catalog", "sizing", "simulate"},
    "deploy": {"catalog", "policy"},
    "lake": {"access", "monitor", "engines"},
    "training": {"access", "monitor", "engines", "lake"},
    "lifecycle": {"access", "monitor", "engines", "lake", "training"},
    "serving": {"access", "monitor", "engines", "lake", "lifecycle", "policy"},
    "backup": {"access", "monitor", "engines", "lake", "serving", "policy"},
    "operate": {"access", "monitor", "engines", "lake", "training", "lifecycle", "serving", "policy"},
    "diagnosis": {"access", "backup", "monitor", "operate", "serving"},
    "report": {"catalog", "plan"},
    "reconcile": {
        *("catalog", "sizing", "simulate", "plan", "monitor", "engines", "lake", "training", "lifecycle", "policy")
    },
}
DESIGN = {"needs", "catalog", "sizing", "simulate", "plan", "deploy", "report"}
RUN = {"access", "monitor", "engines", "lake", "training", "lifecycle", "serving", "backup", "operate", "diagnosis"}
EVERYTHING = {*GROUND, *PACKAGES, "api"}
TOP = {"api": EVERYTHING, "cli": {*GROUND, "contract", "api"}}
# Adapters: the only files that may import inside functions, because what they import is heavy and optional.
HEAVY = {
    *("numpy", "xllamacpp", "torch", "ray", "pyarrow", "pyiceberg", "transformers", "peft", "safetensors"),
    *("gguf", "huggingface_hub", "lightgbm", "onnx", "onnxmltools", "onnxruntime", "tokenizers", "usearch", "tantivy"),
    *("phonenumbers", "fasttext"),
    *("highspy", "typst", "xlsxwriter", "jinja2"),
    *("pypdfium2", "html_to_markdown", "mammoth", "pptx", "python_calamine", "PIL"),
    *("cryptography", "pyrage"),
}
# Folders of a package, bottom-up: each imports only those before it.
FOLDERS = {
    "access": ("audit_delivery", "audit_export"),
    "catalog": ("tables", "layers", "probe", "sources", "refresh"),
    "deploy": ("rendering", "drift", "containers", "cluster", "hosts", "monitoring"),
    "lake": (
        *("documents", "formats", "sources", "tables", "personal_data", "steps", "text_steps", "passages"),
        *("governance", "retrieval", "erasure"),
    ),
    "monitor": ("wal", "metrics"),
    "plan": (
        *("explain", "accounting", "demand", "solver", "capacity"),
        *("cost", "options", "decision", "evidence", "sections"),
    ),
    "reconcile": ("conformance", "calibration", "training"),
    "serving": (
        *("http", "settings", "events", "requests", "providers"),
        *("admission", "messages_api", "responses_api", "routing", "handlers", "batches", "process"),
    ),
    "sizing": ("model", "hardware", "step_time", "inference", "workloads", "training", "infrastructure"),
}
# Words that once named things here by a metaphor. A file, class or function says the field's term instead.
PRIVATE_WORDS = {
    *("aside", "asked", "asks", "brought", "carried", "conclude", "crew", "door", "doubt", "flip", "flips"),
    *("guess", "house", "intake", "judge", "judged", "keeper", "kept", "laid", "lane", "lanes", "lot", "lots"),
    *("lying", "pace", "patience", "plug", "promise", "promised", "promises", "purse", "room", "rooms", "said"),
    *("seat", "slack", "slate", "slates", "stretch", "teller", "tells", "till", "told", "turn", "turns"),
    *("unpromised", "voice", "wanted", "whereabouts", "whose", "wish"),
}
# The name of a test is a sentence, in which these words have their plain meaning.
ENGLISH_IN_TESTS = {"asked", "asks", "carried", "kept", "room", "tells", "told", "turn", "turns", "whose"}
# The first commit whose subject follows the rule of CONTRIBUTING.md.
SUBJECTS_SINCE = "6157a9b0"
# Merges follow the rule since this commit.
MERGES_SINCE = "b877909d"
# Of a decoded event, which is renumbered in place, and of the standard library's TLS context.
SET_IN_PLACE = {"index", "delta", "minimum_version"}
SUBJECT = re.compile(r"[a-z][a-z0-9 ,/_.-]*: [a-z].*")
BAGS = {"utils", "util", "helpers", "helper", "common", "misc", "others", "shared"}
NAMES_OF_FACTS = re.compile(r"\b(h100|h200|a100|b200|vllm|sglang|gdpr|hipaa|soc2|aws|azure|gcp)\b", re.IGNORECASE)


@cache
def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@cache
def tree_of(path: Path) -> ast.Module:
    """Parsed once: nearly every rule walks every tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(path)))


@cache
def list_modules() -> frozenset[str]:
    return frozenset(module_of(file) for file in FILES)


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    return tuple(find_imports(path, list_modules()))


def find_imports(path: Path, known: frozenset[str]) -> Iterator[str]:
    """Every module of ours that a file imports, type-only imports included."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "archwright")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "archwright":
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else str(node.module)


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def show(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_file_stands_in_a_known_package() -> None:
    packages = {package_of(module_of(path)) for path in FILES}
    assert packages <= {"", "__main__", *GROUND, *PACKAGES, *TOP}


def test_http_is_spoken_by_one_package() -> None:
    """`reconcile.conformance` is a distribution of its own, without a dependency on the rest."""
    allowed = {SOURCE / "http_client", SOURCE / "reconcile" / "conformance"}
    others = [path for path in FILES if allowed.isdisjoint(path.parents)]
    libraries = r"urllib\.request|http\.client|httpx|requests|urllib3|aiohttp"
    imported = rf"^\s*(?:import|from) (?:{libraries})\b|^\s*from (?:urllib|http) import .*\b(?:request|client)\b"
    clients = re.compile(rf"{imported}|\bopen_connection\(", re.M)
    assert [path.name for path in others if clients.search(path.read_text(encoding="utf-8"))] == []


def test_floors_a_package_imports_only_what_the_table_allows() -> None:
    broken = []
    for path in FILES:
        package = package_of(module_of(path))
        for imported in imports_of(path):
            target = package_of(imported)
            allowed = TOP.get(package) or {*GROUND, "contract", *PACKAGES.get(package, set())}
            if package in GROUND:
                allowed = set(GROUND[: GROUND.index(package)])
            if package in ("", "__main__"):
                allowed = {"", "cli"}
            if target not in {package, "", *allowed}:
                broken.append(f"{show(path)} imports {imported}")
    assert broken == []


def test_the_wall_between_the_wings() -> None:
    for path in FILES:
        package = package_of(module_of(path))
        wing = DESIGN if package in DESIGN else RUN if package in RUN else None
        if wing:
            other = RUN if wing is DESIGN else DESIGN
            crossing = {package_of(imported) for imported in imports_of(path)} & other
            assert not crossing, f"{show(path)} crosses the wall to {crossing}"


def test_no_import_cycle_not_even_for_types() -> None:
    graph = {module_of(path): set(imports_of(path)) for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"cycle: {' -> '.join([*trail, module])}"
        if module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def folder_of(path: Path) -> str:
    """The folder within its package, empty for a file that stands in the package itself."""
    parts = path.relative_to(SOURCE).parts
    return parts[1] if len(parts) > 2 else ""


def test_folders_are_few_files_and_import_only_folders_below() -> None:
    broken = []
    for package, folders in FOLDERS.items():
        found = {path.parent.name for path in (SOURCE / package).glob("*/*.py")}
        assert found == set(folders), package
        for folder in folders:
            count = len([path for path in (SOURCE / package / folder).glob("*.py") if path.name != "__init__.py"])
            if not 2 <= count <= 14:
                broken.append(f"{package}/{folder} has {count} files")
    for path in FILES:
        package, folder = package_of(module_of(path)), folder_of(path)
        order = FOLDERS.get(package, ())
        for imported in imports_of(path) if folder in order else ():
            target = imported.split(".")[2] if imported.count(".") > 1 and package_of(imported) == package else ""
            if target in order and order.index(target) > order.index(folder):
                broken.append(f"{show(path)} imports {imported}")
    assert broken == []


def test_no_file_above_600_lines() -> None:
    lengths = {show(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 600} == {}


def test_no_function_above_80_lines_or_6_parameters() -> None:
    broken = []
    for path in FILES:
        for node in functions_of(path):
            length = (node.end_lineno or 0) - node.lineno + 1
            arguments = node.args
            count = sum(1 for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "cls"))
            keyword_only = len(arguments.kwonlyargs)
            if length > 80 or count + keyword_only > 6:
                broken.append(
                    f"{show(path)}:{node.lineno} {node.name}: {length} lines, {count + keyword_only} parameters"
                )
    assert broken == []


def test_a_public_class_name_is_defined_once() -> None:
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in tree_of(path).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else alias_names(node)
            for name in names:
                places.setdefault(name, []).append(f"{show(path)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1 and not name.startswith("_")} == {}


def alias_names(node: ast.stmt) -> list[str]:
    """Names in CapWords that a module assigns: aliases of types."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if re.fullmatch(r"[A-Z][a-z]+(?:[A-Z][a-z]*)*", name)]


def test_names_hold_no_private_words() -> None:
    broken = []
    for path in FILES:
        relative = path.relative_to(SOURCE).with_suffix("")
        names = [*relative.parts]
        names += [
            node.name
            for node in nodes_of(path)
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        for name in names:
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
            broken += [f"{show(path)}: {name}" for _ in words & PRIVATE_WORDS]
    assert broken == []


def test_names_of_tests_hold_no_private_words() -> None:
    broken = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.M):
            if not PRIVATE_WORDS.difference(ENGLISH_IN_TESTS).isdisjoint(name.split("_")):
                broken.append(f"{show(path)}: {name}")
    assert broken == []


def test_functions_are_named_by_verb_and_object() -> None:
    """At most 3 % of the functions of modules have a name of one word; the verbs of `api` are one word by design."""
    names = [
        node.name.strip("_")
        for path in FILES
        if package_of(module_of(path)) != "api"
        for node in tree_of(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len([name for name in names if "_" not in name]) <= 0.03 * len(names)


def test_tests_are_found_by_the_name_of_their_module() -> None:
    """A test file in a folder of a package is named after a module of that folder; its end may name an aspect."""
    broken = []
    for path in (ROOT / "tests").glob("*/*/test_*.py"):
        folder = SOURCE / path.parent.relative_to(ROOT / "tests")
        modules = [module.stem for module in folder.glob("*.py")]
        subject = path.stem.removeprefix("test_")
        if modules and not any(subject == module or subject.startswith(f"{module}_") for module in modules):
            broken.append(show(path))
    assert broken == []


@pytest.mark.process
@pytest.mark.parametrize(("since", "kind"), [(SUBJECTS_SINCE, "--no-merges"), (MERGES_SINCE, "--merges")])
def test_commit_subjects_name_an_area_and_are_short(since: str, kind: str) -> None:
    """`area: imperative summary`, at most 72 characters. A shallow clone holds only newer commits."""
    git = ["git", "-C", str(ROOT)]
    known = subprocess.run([*git, "cat-file", "-e", since], capture_output=True, check=False).returncode == 0
    span = [f"{since}..HEAD"] if known else ["HEAD"]
    log = subprocess.run([*git, "log", kind, "--format=%s", *span], capture_output=True, text=True, check=True)
    subjects = log.stdout.splitlines()
    assert [text for text in subjects if len(text) > 72 or SUBJECT.fullmatch(text) is None] == []


def test_broad_except_only_in_the_boundary() -> None:
    """The boundary is a context manager: it sees any Exception in `__exit__`, where no handler is needed."""
    broken = []
    for path in FILES:
        for node in nodes_of(path):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "isinstance"
                and any(isinstance(n, ast.Name) and n.id == "Exception" for n in ast.walk(node))
            ):
                broken.append(f"{show(path)}:{node.lineno}")
            if isinstance(node, ast.ExceptHandler):
                names = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"bare"}
                if names & {"Exception", "bare"}:
                    broken.append(f"{show(path)}:{node.lineno}")
                if "BaseException" in names and not any(isinstance(n, ast.Raise) for n in ast.walk(node)):
                    broken.append(f"{show(path)}:{node.lineno} swallows BaseException")
    assert [place for place in broken if not place.startswith("src/archwright/errors.py")] == []
    assert sum(place.startswith("src/archwright/errors.py") for place in broken) == 1


@pytest.mark.parametrize(
    ("pattern", "owner"),
    [
        (r"\bos\.environ\b|\bos\.getenv\b", "settings.py reconcile/conformance/command.py"),
        # The store is ours; the source of a data set may be a foreign database.
        (
            r"\bimport sqlite3\b|\bsqlalchemy\b|\bimport psycopg\b",
            "store.py sqlite_files.py lake/sources/sql_source.py",
        ),
        (r"\bimport lmdb\b", "monitor/shared_table.py lake/passages/embedding.py"),
        (r"\.expanduser\(|Path\.home\(|\"\.archwright\"", "settings.py"),
        (r"[\"']archwright_[a-z{]", "contract/metrics.py"),
    ],
)
def test_one_owner(pattern: str, owner: str) -> None:
    """The environment, SQL, paths and our metric names have one home each."""
    readers = {str(p.relative_to(SOURCE)) for p in FILES if re.search(pattern, p.read_text(encoding="utf-8"))}
    assert readers <= {*owner.split()}


def test_no_bags() -> None:
    assert [show(p) for p in FILES if BAGS & set(p.relative_to(SOURCE).with_suffix("").parts)] == []


def test_a_request_can_be_followed() -> None:
    """Between the stages of a request go frozen records: an object is changed by methods of its own file only."""
    broken = []
    folders = [SOURCE / "serving" / name for name in ("http", "admission", "handlers", "process")]
    for path in (path for path in FILES if path.parent in folders):
        stored = [
            node for node in nodes_of(path) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        ]
        fields = [node.target for node in nodes_of(path) if isinstance(node, ast.AnnAssign)]
        own = {node.attr for node in stored if is_of_self(node)} | {
            name.id for name in fields if isinstance(name, ast.Name)
        }
        own |= SET_IN_PLACE
        broken += [f"{show(path)}:{node.lineno} sets {ast.unparse(node)}" for node in stored if node.attr not in own]
    assert broken == []


def is_of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def test_facts_are_rows_not_code() -> None:
    """No accelerator, cloud, engine product or regulation is named in a Python file (unless the file is named so)."""
    broken = []
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = {word.lower() for word in NAMES_OF_FACTS.findall(line)} - {path.stem}
            if found:
                broken.append(f"{show(path)}:{number} {found}")
    assert broken == []


def test_imports_inside_functions_only_for_heavy_extras() -> None:
    broken = []
    for path in FILES:
        for function in functions_of(path):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                    if (module or "").split(".")[0] not in HEAVY:
                        broken.append(f"{show(path)}:{node.lineno} {module}")
    assert broken == []


def test_heavy_extras_never_at_the_top_of_a_file() -> None:
    for path in FILES:
        for node in tree_of(path).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & HEAVY, show(path)


def test_nothing_unsafe_is_called() -> None:
    """No unpickling, no eval, no shell, no YAML loader that constructs objects."""
    unsafe = re.compile(
        r"\bimport pickle\b|\bpickle\.load|torch\.load\(|"
        r"\bmarshal\.load|\beval\(|\bexec\(|shell=True|yaml\.load\((?!.*CSafeLoader)|yaml\.unsafe|os\.system"
    )
    assert [show(p) for p in FILES if unsafe.search(p.read_text(encoding="utf-8"))] == []


def find_modules_run_unsafely(path: Path) -> Iterator[int]:
    """The lines with an argument "-m" that no "-P" precedes."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call):
            words = node.args
        elif isinstance(node, ast.List | ast.Tuple):
            words = node.elts
        else:
            continue
        values = [getattr(word, "value", None) for word in words]
        for index, value in enumerate(values):
            if value == "-m" and values[:index][-1:] != ["-P"]:
                yield node.lineno


def test_python_children_import_nothing_of_the_working_folder() -> None:
    """One module builds their command lines, and each entry point checks `sys.flags.safe_path`."""
    owner = SOURCE / "python_process.py"
    others = [path for path in FILES if path != owner]
    assert [(show(path), line) for path in others for line in find_modules_run_unsafely(path)] == []
    building = re.compile(r"\[\s*sys\.executable")
    assert [show(path) for path in others if building.search(path.read_text(encoding="utf-8"))] == []
    entry_point = re.compile(r'if __name__ == "__main__":\n(?!    run_entry_point\(main\)\n)')
    unchecked = [show(path) for path in FILES if entry_point.search(path.read_text(encoding="utf-8"))]
    assert unchecked == [show(SOURCE / "__main__.py")], "only the command line may start without -P"


def test_every_launch_line_of_this_package_has_a_safe_path() -> None:
    """In tests, examples, documents and rendered files too: they are copied."""
    kinds = {".py", ".md", ".yaml", ".sh"}
    unsafe = re.compile(r"(?<!-P )-[m] archwright")
    folders = [SOURCE, *(ROOT / name for name in ("tests", "bench", "examples", "docs"))]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in kinds]
    texts = {path: re.sub(r"[\"',`]", "", path.read_text(encoding="utf-8")) for path in files}
    assert [show(path) for path, text in texts.items() if unsafe.search(text)] == []


def test_no_unfinished_work_is_shipped() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|raise NotImplementedError)\b")
    assert [show(p) for p in FILES if marks.search(p.read_text(encoding="utf-8"))] == []


def test_no_test_is_skipped() -> None:
    skipping = re.compile(r"mark\.(skip|xfail)|importorskip|pytest\.skip\(")
    files = [p for p in (ROOT / "tests").rglob("*.py") if p.name != "test_house.py"]
    assert [show(p) for p in files if skipping.search(p.read_text(encoding="utf-8"))] == []


def modules_loaded(*argv: str) -> int:
    """Lines of `-X importtime` beyond those of a bare interpreter."""

    def count(arguments: tuple[str, ...]) -> int:
        run = subprocess.run(
            [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True
        )
        return run.stderr.count("import time:")

    return count(argv) - count(("-c", "pass"))


@pytest.mark.process
def test_help_loads_at_most_150_modules() -> None:
    assert modules_loaded("-P", "-m", "archwright", "--help") <= 150


@pytest.mark.process
def test_import_loads_at_most_100_modules() -> None:
    assert modules_loaded("-c", "import archwright") <= 100


def public_functions(api: Any) -> Iterator[str]:
    """`plan`, `models.fetch`: the functions of the API and of its groups."""
    for name in api.__all__:
        member = getattr(api, name)
        if not inspect.ismodule(member):
            yield name
            continue
        for inner, function in inspect.getmembers(member, inspect.isfunction):
            if function.__module__ == member.__name__ and not inner.startswith("_"):
                yield f"{name}.{inner}"


def test_command_line_mirrors_the_api() -> None:
    """Every verb has a public function with the same parameters, and every public function has a verb."""
    api = import_module("archwright.api")
    verbs = import_module("archwright.cli.verbs")
    for verb in verbs.VERBS:
        function: Any = api
        for part in verb.function.split("."):
            function = getattr(function, part)
        parameters = inspect.signature(function).parameters
        positional = [p.name for p in parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        options = {p.name for p in parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        assert [a.name for a in verb.args if a.positional] == positional, verb.words
        assert {a.of or a.name for a in verb.args if not a.positional} == options, verb.words
        for record in {a.of for a in verb.args if a.of}:
            fields = type(parameters[record].default).__struct_fields__
            assert tuple(a.name for a in verb.args if a.of == record) == fields, verb.words
        for arg in verb.args:
            default = getattr(parameters[arg.of].default, arg.name) if arg.of else parameters[arg.name].default
            if arg.required:
                assert default is inspect.Parameter.empty, (verb.words, arg.name)
            else:
                assert default == (False if arg.kind == "flag" else arg.default), (verb.words, arg.name)
    assert {verb.function for verb in verbs.VERBS} == set(public_functions(api))


def codes_of(path: Path) -> Iterator[tuple[str, str]]:
    """(code, class) of every error raised with a literal code."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            code = node.args[0].value
            if isinstance(code, str) and re.fullmatch(r"AW-[A-Z]+-\d\d", code):
                yield code, ast.unparse(node.func)


def test_an_error_code_belongs_to_one_area() -> None:
    """A code is raised by one class of error, and its area is that of the class (errors.py draws the tree)."""
    areas = {"NEEDS", "FILE", "SET", "USE", "PLAN", "CAT", "GET", "ACC", "ENG", "OPS", "STO", "REC", "SRV", "INT"}
    areas |= {"DATA", "TRN", "MOD"}
    for path in FILES:
        for code, _function in codes_of(path):
            assert code.split("-")[1] in areas, f"{show(path)}: {code}"


# Packages that have reached the goals of records; the others follow.
WITHOUT_METHODS_OF_TUPLES = {"access", "backup", "cli", "monitor", "needs", "report"}


def test_a_tuple_has_no_methods() -> None:
    """A NamedTuple is unpacked and compared by position, so a thing with behaviour is a dataclass or a Record."""
    found = [
        f"{path.name}: {node.name}"
        for path in FILES
        if package_of(module_of(path)) in WITHOUT_METHODS_OF_TUPLES
        for node in nodes_of(path)
        if isinstance(node, ast.ClassDef) and is_tuple_with_methods(node)
    ]
    assert found == []


def is_tuple_with_methods(node: ast.ClassDef) -> bool:
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    return "NamedTuple" in bases and any(isinstance(part, ast.FunctionDef) for part in node.body)


def test_people_read_plain_english() -> None:
    """Strings, docstrings, comments, YAML texts and documents; docs/errors.md repeats strings of the source."""
    documents = [path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if path.name != "errors.md"]
    found = check_files([SOURCE, ROOT / "examples", *documents])
    assert not found, "\n".join(found)


WALKS = ("A request", "A plan", "A data set", "A promotion")


def test_the_map_names_the_functions_of_every_step() -> None:
    """Each numbered step of docs/map.md names at least one class or function, and all names exist."""
    page = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    for walk in WALKS:
        section = page.split(f"## {walk}\n")[1].split("\n## ")[0]
        steps = re.findall(r"^\d+\. .*(?:\n {2,}.*)*", section, re.MULTILINE)
        assert len(steps) >= 5, walk
        for step in steps:
            names = re.findall(r"`([a-z_]+(?:\.\w+)+)`", step)
            assert any(not find_module(name.split(".")) for name in names), f"{walk}: no function in step {step}"
            for name in names:
                if name.rsplit(".", 1)[1] not in {"json", "yaml"}:
                    assert is_defined(name.split(".")), f"{walk}: {name} does not exist"


def find_module(parts: list[str]) -> bool:
    return SOURCE.joinpath(*parts).with_suffix(".py").is_file() or SOURCE.joinpath(*parts).is_dir()


def is_defined(parts: list[str]) -> bool:
    """True if the name is a module, or a class, function or method of one: serving.http.connection.HttpConnection."""
    if find_module(parts):
        return True
    cut = next((i for i in range(len(parts), 0, -1) if SOURCE.joinpath(*parts[:i]).with_suffix(".py").is_file()), 0)
    if not cut:
        return False
    scope: ast.AST = ast.parse(SOURCE.joinpath(*parts[:cut]).with_suffix(".py").read_text(encoding="utf-8"))
    for name in parts[cut:]:
        found = [node for node in ast.iter_child_nodes(scope) if getattr(node, "name", "") == name]
        if not found:
            return False
        scope = found[0]
    return True


@pytest.mark.process
def test_generated_documents_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.process
def test_no_path_of_a_machine_and_no_registry_host_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    hosts = re.compile(
        rb"/[r]oot/|(?<!\w)/home/\w+/|pythonhosted[.]|pypi[.]org|registry[.]npmjs|deb[.]debian|/[w]ork/(main|shared)"
    )
    for name in listed.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            assert not hosts.search(path.read_bytes()), name


def test_every_command_of_the_readme_exists() -> None:
    """The parser accepts every command of the README."""
    parser = import_module("archwright.cli").build_parser()
    text = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").split("```")[1::2])
    commands = re.findall(r"^(?:archwright) ([^#\n]+)", text, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        assert parser.parse_args(shlex.split(command)).verb
    targets = set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
