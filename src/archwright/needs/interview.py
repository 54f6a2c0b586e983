"""The questions of `archwright init`: at most twelve, each with its reason and a default, checked as they are answered.

Every answer makes a complete needs file, with defaults for the questions to come. The reader of needs checks it, so an
answer is refused with the message that the file would get.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import PRIVATE_SENSITIVITIES
from archwright.contract.record import Record
from archwright.errors import NeedsError
from archwright.needs.needs_problem import nearest_spellings
from archwright.needs.reader import parse_needs
from archwright.needs.type_check import MAX_NUMBER
from archwright.scalars import resolve_scalar
from archwright.specfile import quote_value, read_packaged_yaml

ANSWERS = "the answers"
NEEDS_FILE = "needs.yaml"
GIB_PER_DOCUMENT = 0.2 / 1024
_PLAIN = re.compile(r"[A-Za-z][\w .-]*", re.ASCII)
_YEARS = re.compile(r"\s*[\d.]+\s*years?\b")
_NUMBER = re.compile(r"(?<![\w.])(-?\d+(?:,\d{3})*(?:\.\d+)?)([kKmM]?)(?![\w])")
_THOUSANDS = {"": 1, "k": 1000, "m": 1_000_000}
# "8.000" is eight thousand to some readers and eight to others.
_AMBIGUOUS = re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3})+(?![\w.])")


class Question(Record):
    key: str
    ask: str
    why: str
    default: str = ""
    only_for: tuple[str, ...] = ()


@cache
def read_questions() -> tuple[Question, ...]:
    return tuple(read_packaged_yaml(Path(__file__).parent / "interview.yaml", list[Question]))


@cache
def read_parts() -> Mapping[str, str]:
    """Return templates of answers by name: the workloads of each use case, and NEEDS_FILE, the file around them."""
    text = (Path(__file__).parent / "interview_templates.txt").read_text(encoding="utf-8")
    parts = re.split(r"^=== (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def interview_user(catalog: Catalog, ask: Callable[[str], str]) -> str:
    """Return the text of a needs file from answers. `ask` shows a question and returns the answer, "" for the default.

    An answer that is not valid is asked again, with the reason.
    """
    answers: dict[str, str] = {}
    questions = read_questions()
    for number, question in enumerate(questions, 1):
        if question.only_for and not {*question.only_for} & {*_split(_answer("cases", answers, catalog))}:
            continue
        default = _answer(question.key, answers, catalog)
        prompt = f"{number}/{len(questions)}  {question.ask}\n      because {question.why}\n      [{default}] "
        while True:
            given = {**answers, question.key: ask(prompt).strip() or default}
            try:
                parse_needs(write_needs(given, catalog).encode(), ANSWERS, catalog)
            except NeedsError as error:
                prompt = f"      {error.message}; {error.hint}\n      [{default}] "
            except ValueError as error:
                prompt = f"      {error}\n      [{default}] "
            else:
                answers = given
                break
    return write_needs(answers, catalog)


def write_needs(answers: Mapping[str, str], catalog: Catalog) -> str:
    """Return a needs file; a question without an answer gets its default. Raises ValueError with the reason."""
    found = {question.key: _answer(question.key, answers, catalog) for question in read_questions()}
    name, country, people = _read_organisation(found["organisation"])
    months, growth = _read_numbers(found["horizon"], 2, "36 months, 20 % a year")
    months *= 12 if _YEARS.match(found["horizon"]) else 1
    per_month, capex = _read_numbers(found["budget"], 2, "8000 a month, 0 to buy, EUR")
    documents, users = (_read_numbers(found[key], 1, "400")[0] for key in ("documents", "users"))
    currency = re.search(r"\b[A-Za-z]{3}\s*$", found["budget"])
    numbers = {"people": people, "months": months, "growth": growth / 100, "per_month": per_month, "capex": capex}
    numbers |= {"documents": documents, "users": users, "size_gib": max(1.0, round(documents * GIB_PER_DOCUMENT, 1))}
    texts = {"name": name, "country": country, "speed": found["speed"], "sensitivity": found["sensitivity"]}
    texts["currency"] = currency[0].strip().upper() if currency else ""
    values = {key: f"{number:.12g}" for key, number in numbers.items()}
    values |= {key: _write_scalar(text) for key, text in texts.items()}
    values |= {key: f"[{', '.join(map(_write_scalar, _split(found[key])))}]" for key in ("residency", "languages")}
    values["team"], values["owned"] = _read_team(found["team"]), _read_machines(found["machines"])
    values["regulations"] = ", ".join(_list_regulations(country, found["sensitivity"], catalog))
    values["workloads"] = "".join(_read_cases(found["cases"])).format(**values).rstrip("\n").replace("\n", "\n  ")
    return read_parts()[NEEDS_FILE].replace("{workloads}", "  {workloads}").format(**values)


def _read_cases(answer: str) -> list[str]:
    """Return the workload templates of the use cases."""
    templates = {name: part for name, part in read_parts().items() if name != NEEDS_FILE}
    cases = dict.fromkeys(_split(answer))
    for case in cases or [""]:
        if case not in templates:
            near = nearest_spellings(case, templates)
            guess = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"{quote_value(case)} is no use case. {guess}Write one or more of: {', '.join(templates)}")
    return [templates[case] for case in cases]


def _answer(key: str, answers: Mapping[str, str], catalog: Catalog) -> str:
    """Return the answer to a question, else its default, which may follow from earlier answers."""
    question = next(one for one in read_questions() if one.key == key)
    if key in answers or question.default:
        return answers.get(key, question.default)
    _, country, people = _read_organisation(_answer("organisation", answers, catalog))
    in_europe = country in catalog.countries and catalog.is_inside(country, "EEA")
    if key == "users":
        return f"{max(1, round(people * 0.4)):d}"
    if key == "languages":
        known = catalog.country_languages.get(country)
        return " ".join(dict.fromkeys((*(known.languages if known else ()), "en")))
    if key == "residency":
        return "EEA" if in_europe else "any"
    users = _read_numbers(_answer("users", answers, catalog), 1, "400")[0]
    return f"{max(3000, 20 * users):.0f} a month, 0 to buy, {'EUR' if in_europe else 'USD'}"


def _read_organisation(answer: str) -> tuple[str, str, float]:
    parts = [part.strip() for part in answer.rsplit(",", 2)]
    if len(parts) != 3 or not parts[0]:
        raise ValueError("three parts with commas are needed, as in: Acme, DE, 200")
    return parts[0], parts[1].upper(), _read_numbers(parts[2], 1, "Acme, DE, 200")[0]


def _read_numbers(answer: str, count: int, example: str) -> list[float]:
    """Return the numbers of an answer. Raises ValueError unless there are `count`, of at most 18 digits."""
    if unclear := _AMBIGUOUS.search(answer):
        raise ValueError(f"{unclear[0]} can be read in two ways. Write {unclear[0].replace('.', '')} for thousands")
    found = [float(number.replace(",", "")) * _THOUSANDS[unit.lower()] for number, unit in _NUMBER.findall(answer)]
    if len(found) != count or max(found) > MAX_NUMBER:
        raise ValueError(f"{count} number{'s are' if count > 1 else ' is'} needed, as in: {example}")
    return found


def _read_machines(answer: str) -> str:
    """Return owned machines from "2 of 8x L40S, 4x L40S"."""
    parts = [part.strip().rpartition(" of ") for part in answer.split(",") if part.strip() not in ("", "none")]
    counts = [_read_numbers(count, 1, "2 of 8x L40S")[0] if count else 1 for count, _, _ in parts]
    machines = (json.dumps(machine, ensure_ascii=False) for _, _, machine in parts)
    return ", ".join(f"{{machine: {name}, count: {count:g}}}" for name, count in zip(machines, counts, strict=True))


def _read_team(answer: str) -> str:
    """Return "platform: 1, security: 0.5" from "platform 1, security 0.5"."""
    if answer == "none":
        return ""
    pairs = (part.strip().rpartition(" ") for part in answer.split(","))
    example = "platform 1, security 0.5"
    return ", ".join(f"{_write_scalar(role)}: {_read_numbers(number, 1, example)[0]:g}" for role, _, number in pairs)


def _list_regulations(country: str, sensitivity: str, catalog: Catalog) -> list[str]:
    """Return the regulations whose every condition the country or the data meet."""
    in_europe = country in catalog.countries and catalog.is_inside(country, "EEA")
    conditions = {
        "us": country == "US",
        "ai_system": True,
        "placed_or_used_in_eu": in_europe,
        "subjects_in_eea": in_europe,
        "personal_data": sensitivity in PRIVATE_SENSITIVITIES,
        "phi": sensitivity == "health",
        "cardholder_data": sensitivity == "payment",
    }
    rows = catalog.regulations.values()
    return [row.id for row in rows if row.applies_when and all(conditions.get(one) for one in row.applies_when)]


def _split(answer: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", answer) if part]


def _write_scalar(text: str) -> str:
    """Return a text as YAML, in quotes if it is not plain, so that an answer stays one value."""
    plain = _PLAIN.fullmatch(text) and isinstance(resolve_scalar(text), str) and text == text.strip()
    return text if plain else json.dumps(text, ensure_ascii=False)
