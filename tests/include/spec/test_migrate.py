"""A model.yaml of version 1 becomes one of today's: only what changed its name is touched."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from include.cli.app import app
from include.errors import SpecError
from include.spec import MODELS_DIR, parse_spec
from include.spec.migrate import migrate

PATH = MODELS_DIR / "flight_delays" / "model.yaml"
CURRENT = PATH.read_text()
OLD_NAMES = {
    "  min_loss_gain_vs_baseline: ": "  min_log_loss_gain_vs_base_rate: ",
    "  max_loss_increase_vs_champion: ": "  max_log_loss_increase_vs_champion: ",
    "  max_loss_increase: ": "  max_log_loss_increase: ",
    "  min_loss_increase: ": "  min_log_loss_increase: ",
    "  agreement_tolerance: ": "  max_mean_score_shift: ",
    "schema_version: 3": "schema_version: 1",
}


def version_1(text: str = CURRENT) -> str:
    for new, old in OLD_NAMES.items():
        assert text.count(new) == 1
        text = text.replace(new, old)
    return text


def test_names_change_and_nothing_else() -> None:
    assert migrate(version_1(), path=PATH) == CURRENT
    parse_spec(migrate(version_1(), path=PATH), path=PATH)


def test_it_comes_to_rest() -> None:
    assert migrate(CURRENT, path=PATH) == CURRENT


def test_flow_style_quotes_and_comments_stay() -> None:
    old = 'schema_version: 1 # one\nrollout: {"max_mean_score_shift": 0.3, steps_pct: [10]}  # max_mean_score_shift\n'
    new = "schema_version: 3 # one\nrollout: {agreement_tolerance: 0.3, steps_pct: [10]}  # max_mean_score_shift\n"
    assert migrate(old, path=PATH) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "rollout:\n  shadow_requests: 60  # many\n  # kept\n  steps_pct: [10]\n",
            "rollout:\n  # kept\n  steps_pct: [10]\n",
        ),
        ("rollout:\n  shadow_requests: 0\n", "rollout:\n  strategy: canary\n"),
        ("rollout: {min_requests_per_step: 3, steps_pct: [10]}\n", "rollout: {steps_pct: [10]}\n"),
        ("rollout: {steps_pct: [10], min_requests_per_step: 3} # kept\n", "rollout: {steps_pct: [10]} # kept\n"),
        ("rollout: {shadow_requests: 0, min_requests_per_step: 3}\n", "rollout: {strategy: canary}\n"),
    ],
)
def test_numbers_of_requests_that_evidence_replaced_go(old: str, new: str) -> None:
    assert migrate(f"schema_version: 2\n{old}", path=PATH) == f"schema_version: 3\n{new}"


def test_only_keys_at_their_place_are_renamed() -> None:
    text = "schema_version: 1\nother:\n  min_log_loss_increase: 1\ndescription: min_log_loss_increase\n"
    assert migrate(text, path=PATH) == text.replace("schema_version: 1", "schema_version: 3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schema_version: 4\n", "schema_version must be 1 to 3; got 4"),
        ("schema_version: 0\n", "got 0"),
        ("schema_version: true\n", "got True"),
        ("name: x\n", "got None"),
        ("- 1\n", "got None"),
        ("a: [\n", "must be YAML"),
        (
            "schema_version: 1\nretraining: {min_log_loss_increase: 1, min_loss_increase: 2}\n",
            "retraining.min_log_loss_increase is min_loss_increase in version 2; got both",
        ),
    ],
)
def test_what_has_no_known_version_is_refused(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=r".") as caught:
        migrate(text, path=PATH)
    assert said in str(caught.value)
    assert "Nothing was changed." in str(caught.value)


def test_check_fix_shows_the_difference_and_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flight_delays" / "model.yaml"
    path.parent.mkdir()
    path.write_text(version_1())
    monkeypatch.setattr("include.cli.check.MODELS_DIR", tmp_path)
    declined = CliRunner().invoke(app, ["check", "flight_delays", "--fix"], input="n\n")
    assert "+schema_version: 3" in declined.output
    assert path.read_text() == version_1()
    assert declined.exit_code == 1  # features.py and the others are not there
    fixed = CliRunner().invoke(app, ["check", "flight_delays", "--fix", "--yes"])
    assert "-  min_log_loss_increase: 0.02" in fixed.output
    assert path.read_text() == CURRENT
    again = CliRunner().invoke(app, ["check", "flight_delays", "--fix", "--yes"])
    assert "nothing to migrate" in again.output
