"""Why a stage of a rollout does not go on, in words for the person who must decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import GateError, InconclusiveError, NotFoundError, SetupError
from include.registry.models import CHALLENGER
from include.rollout.decision import Verdict

if TYPE_CHECKING:
    from include.registry.models import ModelVersion
    from include.rollout.decision import Decision, RolloutState, Stage
    from include.rollout.target import GoldenResult


def no_challenger(model: str) -> NotFoundError:
    """Return the error of a deployment that names no version and finds none."""
    return NotFoundError(
        f"model {model!r} must have a version with the alias {CHALLENGER!r}; got none. The routes stay as they were. "
        "Train one, or trigger with the parameter `version`."
    )


def withdrawn(model: str, version: str, state: RolloutState) -> GateError:
    """Return the error of a version that is no longer being rolled out."""
    return GateError(
        f"{model!r} v{version} must still be in the rollout; got champion {state.champion}, canary {state.canary}, "
        f"shadow {state.shadow}: it was taken out, or another version took over. The routes stay as they are. Trigger "
        "with the parameter `version` to begin again."
    )


def not_settled(model: str, version: str, decision: Decision, *, stage: Stage, share_pct: float) -> Exception:
    """Return the error of a stage that did not pass."""
    where = f"at {share_pct:g} %" if stage == "canary" else "without an answer"
    kind = GateError if decision.verdict is Verdict.FAIL else InconclusiveError
    return kind(
        f"{stage} of {model!r} v{version} {where}: {'; '.join(decision.reasons)}. The traffic stays as it is until the "
        "roll-back task takes the version out. Look at the ledger's evidence; train another version."
    )


def golden_differ(model: str, version: str, golden: GoldenResult) -> GateError:
    """Return the error of a version that scores its golden rows differently."""
    return GateError(
        f"golden requests of {model!r} v{version} must be within {golden.tolerance:g} of the recorded scores; got "
        f"{golden.max_abs_diff:.3g} over {golden.num_rows} rows. It takes no traffic. Compare the server's onnxruntime "
        "with the trainer's."
    )


def too_old(challenger: ModelVersion, champion: ModelVersion) -> GateError:
    """Return the error of a challenger that knows less recent data than the champion."""
    return GateError(
        f"challenger {challenger.name!r} v{challenger.version} must know data at least to "
        f"{champion.tags.get('window_end', '')}, as champion v{champion.version} does; got "
        f"{challenger.tags.get('window_end') or 'no window'}. It takes no traffic. Trigger with `force` to deploy it."
    )


def cut_off(model: str, version: str) -> SetupError:
    """Return the error of a withdrawal whose version serves already."""
    return SetupError(
        f"{model!r} v{version} must be recorded as champion, for it answers all requests; got another one in the "
        "ledger: its promotion was cut off. The routes stay as they are. Clear `promote` to complete it, or trigger "
        f"`rollback_{model}`."
    )


def unknown_champion(model: str, *, routed: str, recorded: str | None) -> SetupError:
    """Return the error of a deployment beside a champion that the ledger does not know."""
    return SetupError(
        f"ledger must know the champion of {model!r}, v{routed} by the routes; got "
        f"{'v' + recorded if recorded else 'none'}: a promotion was cut off, the routes were set by hand, or the "
        f"ledger is older than they are. Nothing was deployed. Trigger `rollback_{model}` with the version that should "
        "serve; if the ledger was restored, compare its head (`./tradewind ledger verify --head`)."
    )
