"""The questions of `archwright init`: at most twelve, each with its reason and a default.

Every answer makes a complete needs file, with defaults for the questions to come. The reader of
needs checks it, so an answer is refused with the message that the file would get.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

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
MONTHS_PER_YEAR = 12
_PLAIN = re.compile(r"[A-Za-z][\w .-]*", re.ASCII)
_YEARS = re.compile(r"\s*[\d.]+\s*years?\b")
_NUMBER = re.compile(r"(?<![\w.])(-?\d+(?:,\d{3})*(?:\.\d+)?)([kKmM]?)(?![\w])")
_CURRENCY = re.compile(r"\b[A-Za-z]{3}\s*$")
_THOUSANDS = {"": 1, "k": 1000, "m": 1_000_000}
# "8.000" is eight thousand to some readers and eight to others.
_AMBIGUOUS = re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3})+(?![\w.])")


class Question(Record):
    key: str
    ask: str
    why: str
    default: str = ""
    only_for: tuple[str, ...] = ()


class _Organisation(NamedTuple):
    name: str
    country: str
    people: float


@cache
def read_questions() -> tuple[Question, ...]:
    path = Path(__file__).parent / "interview.yaml"
    return tuple(read_packaged_yaml(path, list[Question]))


@cache
def read_parts() -> Mapping[str, str]:
    """Return templates of answers by name.

    A use case names its workloads; NEEDS_FILE names the file around them.
    """
    path = Path(__file__).parent / "interview_templates.txt"
    text = path.read_text(encoding="utf-8")
    parts = re.split(r"^=== (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def interview_user(catalog: Catalog, ask: Callable[[str], str]) -> str:
    """Return the text of a needs file from answers.

    `ask` shows a question and returns the answer, "" for the default. An answer that is not valid
    is asked again, with the reason.
    """
    answers: dict[str, str] = {}
    questions = read_questions()
    for number, question in enumerate(questions, 1):
        if _is_needed(question, answers, catalog):
            heading = f"{number}/{len(questions)}  {question.ask}"
            prompt = f"{heading}\n      because {question.why}"
            answers = _ask_until_valid(question.key, prompt, answers, ask=ask, catalog=catalog)
    return write_needs(answers, catalog)


def _is_needed(question: Question, answers: Mapping[str, str], catalog: Catalog) -> bool:
    """True for a question about every use case, or about a use case of the answers."""
    if not question.only_for:
        return True
    cases = _split(_answer("cases", answers, catalog))
    return not set(question.only_for).isdisjoint(cases)


def _ask_until_valid(
    key: str,
    prompt: str,
    answers: Mapping[str, str],
    *,
    ask: Callable[[str], str],
    catalog: Catalog,
) -> dict[str, str]:
    """Return the answers with a valid answer to one question."""
    default = _answer(key, answers, catalog)
    while True:
        answer = ask(f"{prompt}\n      [{default}] ").strip()
        extended_answers = {**answers, key: answer or default}
        try:
            text = write_needs(extended_answers, catalog)
            parse_needs(text.encode(), ANSWERS, catalog)
        except NeedsError as error:
            prompt = f"      {error.message}; {error.hint}"
        except ValueError as error:
            prompt = f"      {error}"
        else:
            return extended_answers


def write_needs(answers: Mapping[str, str], catalog: Catalog) -> str:
    """Return a needs file. Raises ValueError with the reason if an answer is not valid.

    A question without an answer gets its default.
    """
    complete_answers: dict[str, str] = {}
    for question in read_questions():
        complete_answers[question.key] = _answer(question.key, answers, catalog)
    organisation = _read_organisation(complete_answers["organisation"])

    values = _format_numbers(complete_answers, organisation)
    values |= _format_texts(complete_answers, organisation)
    sensitivity = complete_answers["sensitivity"]
    regulations = _list_regulations(organisation.country, sensitivity, catalog)
    values["regulations"] = ", ".join(regulations)

    templates = "".join(_read_cases(complete_answers["cases"]))
    workloads = templates.format(**values).rstrip("\n")
    values["workloads"] = workloads.replace("\n", "\n  ")
    file_template = read_parts()[NEEDS_FILE].replace("{workloads}", "  {workloads}")
    return file_template.format(**values)


def _format_numbers(answers: Mapping[str, str], organisation: _Organisation) -> dict[str, str]:
    """Return the numbers of the needs file as text, by the name of their place in the template."""
    months, growth_percent = _read_horizon(answers["horizon"])
    per_month, capex = _read_numbers(answers["budget"], 2, "8000 a month, 0 to buy, EUR")
    documents = _read_number(answers["documents"], "400")
    size_gib = round(documents * GIB_PER_DOCUMENT, 1)
    numbers = {
        "people": organisation.people,
        "months": months,
        "growth": growth_percent / 100,
        "per_month": per_month,
        "capex": capex,
        "documents": documents,
        "users": _read_number(answers["users"], "400"),
        "size_gib": max(1.0, size_gib),
    }
    return {name: f"{number:.12g}" for name, number in numbers.items()}


def _format_texts(answers: Mapping[str, str], organisation: _Organisation) -> dict[str, str]:
    """Return the texts and lists of the needs file, by the name of their place in the template."""
    currency = _CURRENCY.search(answers["budget"])
    return {
        "name": _write_scalar(organisation.name),
        "country": _write_scalar(organisation.country),
        "speed": _write_scalar(answers["speed"]),
        "sensitivity": _write_scalar(answers["sensitivity"]),
        "currency": _write_scalar(currency[0].strip().upper() if currency else ""),
        "residency": _write_list(answers["residency"]),
        "languages": _write_list(answers["languages"]),
        "team": _read_team(answers["team"]),
        "owned": _read_machines(answers["machines"]),
    }


def _read_horizon(answer: str) -> tuple[float, float]:
    """Return the months of the plan, and the growth in percent a year."""
    duration, growth_percent = _read_numbers(answer, 2, "36 months, 20 % a year")
    if _YEARS.match(answer):
        return duration * MONTHS_PER_YEAR, growth_percent
    return duration, growth_percent


def _read_cases(answer: str) -> list[str]:
    """Return the workload templates of the use cases."""
    templates = dict(read_parts())
    del templates[NEEDS_FILE]
    cases = dict.fromkeys(_split(answer))
    for case in cases or [""]:
        if case not in templates:
            problem = f"{quote_value(case)} is no use case."
            nearest = nearest_spellings(case, templates)
            if nearest:
                problem += f" did you mean {nearest[0]}?"
            raise ValueError(f"{problem} Write one or more of: {', '.join(templates)}")
    return [templates[case] for case in cases]


def _answer(key: str, answers: Mapping[str, str], catalog: Catalog) -> str:
    """Return the answer to a question, else its default, which may follow from earlier answers."""
    if key in answers:
        return answers[key]
    question = next(question for question in read_questions() if question.key == key)
    if question.default:
        return question.default

    organisation = _read_organisation(_answer("organisation", answers, catalog))
    in_europe = _is_in_europe(organisation.country, catalog)
    match key:
        case "users":
            users = max(1, round(organisation.people * 0.4))
            return f"{users:d}"
        case "languages":
            return _list_default_languages(organisation.country, catalog)
        case "residency":
            return "EEA" if in_europe else "any"
        case _:
            users_answer = _answer("users", answers, catalog)
            users_count = _read_number(users_answer, "400")
            per_month = max(3000, 20 * users_count)
            currency = "EUR" if in_europe else "USD"
            return f"{per_month:.0f} a month, 0 to buy, {currency}"


def _is_in_europe(country: str, catalog: Catalog) -> bool:
    return country in catalog.countries and catalog.is_inside(country, "EEA")


def _list_default_languages(country: str, catalog: Catalog) -> str:
    """Return the official languages of the country, and English."""
    codes: dict[str, None] = {}
    official = catalog.country_languages.get(country)
    if official is not None:
        codes.update(dict.fromkeys(official.languages))
    codes["en"] = None
    return " ".join(codes)


def _read_organisation(answer: str) -> _Organisation:
    parts = answer.rsplit(",", 2)
    if len(parts) != 3 or not parts[0].strip():
        raise ValueError("three parts with commas are needed, as in: Acme, DE, 200")
    name, country, people = parts
    return _Organisation(
        name.strip(),
        country.strip().upper(),
        people=_read_number(people, "Acme, DE, 200"),
    )


def _read_number(answer: str, example: str) -> float:
    return _read_numbers(answer, 1, example)[0]


def _read_numbers(answer: str, count: int, example: str) -> list[float]:
    """Return the numbers of an answer.

    Raises ValueError unless there are `count` numbers, of at most 18 digits.
    """
    unclear = _AMBIGUOUS.search(answer)
    if unclear:
        thousands = unclear[0].replace(".", "")
        raise ValueError(
            f"{unclear[0]} can be read in two ways. Write {thousands} for thousands",
        )

    numbers: list[float] = []
    for digits, suffix in _NUMBER.findall(answer):
        number = float(digits.replace(",", ""))
        numbers.append(number * _THOUSANDS[suffix.lower()])
    if len(numbers) != count or max(numbers) > MAX_NUMBER:
        noun = "numbers are" if count > 1 else "number is"
        raise ValueError(f"{count} {noun} needed, as in: {example}")
    return numbers


def _read_machines(answer: str) -> str:
    """Return owned machines from "2 of 8x L40S, 4x L40S"."""
    machines: list[str] = []
    for part in answer.split(","):
        stripped = part.strip()
        if stripped in ("", "none"):
            continue
        count_text, _, machine = stripped.rpartition(" of ")
        count = _read_number(count_text, "2 of 8x L40S") if count_text else 1
        name = json.dumps(machine, ensure_ascii=False)
        machines.append(f"{{machine: {name}, count: {count:g}}}")
    return ", ".join(machines)


def _read_team(answer: str) -> str:
    """Return "platform: 1, security: 0.5" from "platform 1, security 0.5"."""
    if answer == "none":
        return ""
    roles: list[str] = []
    for part in answer.split(","):
        role, _, number = part.strip().rpartition(" ")
        engineers = _read_number(number, "platform 1, security 0.5")
        roles.append(f"{_write_scalar(role)}: {engineers:g}")
    return ", ".join(roles)


def _list_regulations(country: str, sensitivity: str, catalog: Catalog) -> list[str]:
    """Return the regulations whose every condition the country or the data meet."""
    in_europe = _is_in_europe(country, catalog)
    conditions = {
        "us": country == "US",
        "ai_system": True,
        "placed_or_used_in_eu": in_europe,
        "subjects_in_eea": in_europe,
        "personal_data": sensitivity in PRIVATE_SENSITIVITIES,
        "phi": sensitivity == "health",
        "cardholder_data": sensitivity == "payment",
    }
    regulations: list[str] = []
    for row in catalog.regulations.values():
        if row.applies_when and all(map(conditions.get, row.applies_when)):
            regulations.append(row.id)
    return regulations


def _split(answer: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", answer) if part]


def _write_list(answer: str) -> str:
    items = ", ".join(map(_write_scalar, _split(answer)))
    return f"[{items}]"


def _write_scalar(text: str) -> str:
    """Return a text as YAML, in quotes if it is not plain, so that an answer stays one value."""
    is_plain = _PLAIN.fullmatch(text) is not None and text == text.strip()
    if is_plain and isinstance(resolve_scalar(text), str):
        return text
    return json.dumps(text, ensure_ascii=False)
