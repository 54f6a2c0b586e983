"""Languages are identified, and rows of other languages are dropped with the language as the reason."""

from __future__ import annotations

import pytest

from archwright.errors import DataError, MissingError
from archwright.lake.text_steps import language_identification
from archwright.lake.text_steps.language_identification import DetectLanguage, sample_text

from ..steps.step_runner import run_step

TEXTS = {
    "en": "All human beings are born free and equal in dignity and rights, and they are endowed with reason.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos, dotados como están de razón.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione.",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. São dotados de razão.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
}


def test_the_language_is_a_column() -> None:
    run = run_step(DetectLanguage(column="text"), text=[*TEXTS.values(), TEXTS["en"].upper(), "", None, " \n"])
    assert run["language"] == [*TEXTS, "en", None, None, None]
    again = run_step(DetectLanguage(column="text"), text=[TEXTS["de"]], language=["xx"])
    assert again["language"] == ["de"]


def test_other_languages_are_dropped_with_a_reason() -> None:
    run = run_step(DetectLanguage(column="text", keep=("en", "ja")), text=[*TEXTS.values(), None])
    assert run["language"] == ["en", "ja"]
    reasons = [f"the language is {language}" for language in ("de", "fr", "es", "it", "pt", "ru")]
    assert [reason for _, reason in run.dropped] == [*reasons, "no language is certain"]


def test_an_uncertain_language_is_none() -> None:
    texts = [TEXTS["en"], "0x7f qwv 12 %d"]
    assert run_step(DetectLanguage(column="text", minimum_confidence=0.6), text=texts)["language"] == ["en", None]


def test_samples_come_from_the_whole_text() -> None:
    """A page that begins with English boilerplate is in the language of most of it."""
    assert sample_text("a" * 450) == "a" * 450
    text = "a" * 1000 + "b" * 1000 + "c" * 1000
    assert {sign: sample_text(text).count(sign) for sign in "abc"} == {"a": 150, "b": 150, "c": 150}
    run = run_step(DetectLanguage(column="text"), text=[TEXTS["en"] * 2 + TEXTS["de"] * 30, TEXTS["en"][:-1] * 200_000])
    assert run["language"] == ["de", "en"]


def test_only_a_text_column_has_a_language() -> None:
    with pytest.raises(DataError, match="does not contain text") as caught:
        run_step(DetectLanguage(column="n"), n=[1])
    assert caught.value.code == "AW-DATA-22"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    language_identification._load_model.cache_clear()
    monkeypatch.setattr(language_identification, "find_spec", lambda name: None)
    with pytest.raises(MissingError) as caught:
        run_step(DetectLanguage(column="text"), text=["x"])
    assert caught.value.hint == "pip install 'archwright[lake]'"
