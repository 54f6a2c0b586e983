"""The YAML of a needs file: plain values and their lines, or one NeedsError."""

from archwright.errors import NeedsError
from archwright.needs.needs_problem import NeedsCode, NeedsProblem, NeedsTree, to_error
from archwright.specfile import YamlFault, YamlProblem, parse_yaml

_CODES: dict[YamlFault, str] = {
    "syntax": NeedsCode.NOT_YAML,
    "refused": NeedsCode.REFUSED_YAML,
    "size": NeedsCode.TOO_LARGE,
    "text": NeedsCode.BAD_TEXT,
    "duplicate": NeedsCode.DUPLICATE_KEY,
}


def read_tree(text: str, file: str) -> NeedsTree:
    """Parse one YAML document whose top is a mapping. Raises NeedsError."""
    try:
        document = parse_yaml(text)
    except YamlProblem as error:
        lines = {error.path: error.line}
        code = _CODES[error.fault]
        problem = NeedsProblem(code, error.path, str(error), hint=error.hint)
        raise to_error(problem, NeedsTree(file, None, lines, ends={})) from error

    tree = NeedsTree(file, *document)
    if tree.value is None:
        # libyaml gives an empty document the line where the file ends.
        tree.lines[""] = 1
        hint = "run `archwright init` to write a file to start from"
        raise _empty_error(tree, "is empty", hint)
    if not isinstance(tree.value, dict):
        hint = "start with `version: 1`, or run `archwright init` to write a whole file"
        raise _empty_error(tree, "is not a mapping of fields", hint)
    return tree


def _empty_error(tree: NeedsTree, fault: str, hint: str) -> NeedsError:
    problem = NeedsProblem(NeedsCode.EMPTY, "", f"the needs file {fault}", hint=hint)
    return to_error(problem, tree)
