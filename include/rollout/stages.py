"""The stages of a rollout, each safe to repeat: deploy, shift, settle, promote, roll back.

Where a rollout stands is in the target's routes, never in a worker; what was decided is in the ledger, once a run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from include.errors import GateError, InconclusiveError, NotFoundError, SetupError
from include.registry.models import CHALLENGER, CHAMPION, delete_alias, get_alias, get_version, set_alias
from include.rollout.decision import Verdict
from include.rollout.deployment import Deployment, trace_of
from include.rollout.history import champion_of, failed_stages, former_champion, takeover_of
from include.rollout.target import Artifact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.registry.models import ModelVersion
    from include.rollout.decision import Decision, RolloutState, Stage
    from include.rollout.ledger import Entry, Ledger
    from include.rollout.target import DeploymentTarget
    from include.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One run's rollout of a model.

    Args:
        spec: The model's spec.
        target: Where it is served.
        ledger: Where decisions go.
        tracking_uri: MLflow's address.
        actor: Who or what decides.
        run_key: Names the run; a run records each decision once.
    """

    spec: ModelSpec
    target: DeploymentTarget
    ledger: Ledger
    tracking_uri: str
    actor: str
    run_key: str

    @property
    def model(self) -> str:
        """The model's name."""
        return self.spec.name

    def challenger(self, version: str | None) -> ModelVersion:
        """Return the version named, or the one that the alias `challenger` points at.

        Raises:
            NotFoundError: There is none.
        """
        if version:
            return get_version(self.tracking_uri, model=self.model, version=version)
        found = get_alias(self.tracking_uri, model=self.model, alias=CHALLENGER)
        if found is None:
            raise NotFoundError(
                f"model {self.model!r} must have a version with the alias {CHALLENGER!r}; got none. The routes stay as "
                "they were. Train one, or trigger with the parameter `version`."
            )
        return found

    def deploy(self, version: str | None, *, force: bool = False) -> Deployment:
        """Load a challenger, score its golden rows, and start its shadow; a first version only gets that far.

        Raises:
            NotFoundError: There is no such version.
            CorruptArtifactError: Its package does not match its digest.
            GateError: It scores its golden rows differently, or knows less recent data than the champion.
        """
        challenger = self.challenger(version)
        state = self._with_champion(self.target.read(model=self.model))
        if state.champion not in (None, challenger.version) and not force:
            self._require_newer(challenger, champion=str(state.champion))
        golden = self._load(challenger)
        deployment = Deployment(
            version=challenger.version,
            champion=state.champion,
            is_bootstrap=state.champion is None,
            is_champion=state.champion == challenger.version,
            golden=golden,
        )
        if deployment.has_rivals:
            self._start(deployment, state=state, trace=trace_of(challenger))
        return deployment

    def shift(self, version: str, *, share_pct: float) -> None:
        """Give a version its share of the requests; equal shares keep the counters that they have.

        Raises:
            GateError: The version was taken out of the rollout meanwhile.
        """
        state = self.target.read(model=self.model)
        if state.champion == version:
            return
        if version not in (state.canary, state.shadow) and self.spec.rollout.has_shadow:
            raise self._withdrawn(version, state)
        self.target.set_share(model=self.model, version=version, share_pct=share_pct)
        evidence = {"share_pct": share_pct, "state": "started", "champion": state.champion}
        self._record("canary_step", version, evidence, step="started")

    def settle(self, version: str, decision: Decision, *, stage: Stage, share_pct: float) -> None:
        """Record how a stage ended; return for a pass.

        Raises:
            GateError: A measure is worse than the spec allows.
            InconclusiveError: There was too little evidence in time.
        """
        kind = "shadow" if stage == "shadow" else "canary_step"
        outcome = {"state": "ended", "verdict": str(decision.verdict), "reasons": list(decision.reasons)}
        self._record(kind, version, {"share_pct": share_pct, **outcome, **decision.evidence}, step="ended")
        if decision.verdict is Verdict.PASS:
            return
        where = f"at {share_pct:g} %" if stage == "canary" else "without an answer"
        error = GateError if decision.verdict is Verdict.FAIL else InconclusiveError
        raise error(
            f"{stage} of {self.model!r} v{version} {where}: {'; '.join(decision.reasons)}. The traffic stays as it is "
            "until the roll-back task takes the version out. Look at the ledger's evidence; train another version."
        )

    def promote(self, version: str, *, approved_by: str = "") -> Entry:
        """Give a version all requests: routes, then alias, then ledger. The champion before stays loaded.

        Raises:
            GateError: The version was taken out of the rollout meanwhile.
        """
        state = self.target.read(model=self.model)
        promoted = get_version(self.tracking_uri, model=self.model, version=version)
        may_skip_canary = state.champion is None or not self.spec.rollout.shares_pct
        if version not in (state.champion, state.canary) and not (may_skip_canary and version in state.loaded):
            raise self._withdrawn(version, state)
        golden = self._load(promoted)
        self.target.promote(model=self.model, version=version)
        set_alias(self.tracking_uri, model=self.model, alias=CHAMPION, version=version)
        self._drop_challenger(version)
        previous = champion_of(self.ledger, self.model)
        entry = takeover_of(self.ledger, self.model, version) if previous == version else None
        if entry is None:  # else this is a repetition
            evidence = {"champion": version, "previous": previous, "approved_by": approved_by, "golden": golden}
            kind = "bootstrap" if previous is None else "promote"
            entry = self._record(kind, version, {**evidence, **trace_of(promoted)})
        self._remove_all_but(version, entry.evidence["previous"])
        return entry

    def withdraw(self, version: str | None) -> Entry | None:
        """Take a challenger out of the traffic; the champion stays. Without a version, the one with the alias.

        There may be nothing to take out, no challenger or only the champion itself: then nothing is recorded.

        Raises:
            SetupError: The version answers all requests, but its promotion was cut off before the ledger knew.
        """
        alias = None if version else get_alias(self.tracking_uri, model=self.model, alias=CHALLENGER)
        found = version or (alias.version if alias else "")
        state, known = self.target.read(model=self.model), champion_of(self.ledger, self.model)
        if found and state.champion == found != known:
            raise self._cut_off(found)
        if found in ("", state.champion):
            return None
        self.target.withdraw(model=self.model, version=found)
        failed = failed_stages(self.ledger, self.model, run_key=self.run_key, version=found)
        reasons = failed[-1].evidence["reasons"] if failed else ["a task of the rollout failed; its log says why"]
        evidence = {
            "champion": state.champion or known,
            "withdrawn": found,
            "reasons": reasons,
            "decided_by": [entry.seq for entry in failed],
        }
        entry = self._record("roll_back", found, evidence)
        if found in state.loaded and found != former_champion(self.ledger, self.model):
            self.target.remove(model=self.model, version=found)
        self._drop_challenger(found)  # last: by the alias a repetition finds the version again
        return entry

    def roll_back(self, to_version: str | None = None, *, reason: str = "") -> Entry:
        """Give all requests back to the champion before this one, now; there is no canary after that.

        The ledger says who that is and whether this run did it already, so a repeated call goes back once only. A
        version that is still loaded takes over before MLflow is asked anything.

        Raises:
            NotFoundError: There was no champion before.
            GateError: The former champion must be loaded again, and scores its golden rows differently.
        """
        key = f"{self.run_key}:roll_back"
        done = self.ledger.find(key)
        if done is not None:
            return done
        champion = champion_of(self.ledger, self.model)
        state = self.target.read(model=self.model)
        former = to_version or self._former(champion, routed=state.champion)
        if former not in state.loaded:
            self._load(get_version(self.tracking_uri, model=self.model, version=former))
        self.target.promote(model=self.model, version=former)
        set_alias(self.tracking_uri, model=self.model, alias=CHAMPION, version=former)
        left = champion if state.champion == former else state.champion
        evidence = {"champion": former, "previous": left, "reasons": [reason or "no reason given"]}
        return self.ledger.append(
            model=self.model, kind="roll_back", subject=former, evidence=evidence, actor=self.actor, key=key
        )

    def _former(self, champion: str | None, *, routed: str | None) -> str:
        before = former_champion(self.ledger, self.model)
        if champion is not None and routed not in (None, champion, before):
            return champion  # the ledger does not know the version that serves: its promotion was cut off
        if before is None:
            raise NotFoundError(
                f"model {self.model!r} must have had a champion before v{champion} to go back to; got none in the "
                "ledger. The routes stay as they were. Trigger with the parameter `version`, or deploy another one."
            )
        return before

    def _with_champion(self, state: RolloutState) -> RolloutState:
        """Return the state after giving back a champion that the target forgot (a new machine, a lost disk)."""
        if state.champion is not None:
            return state
        known = champion_of(self.ledger, self.model)
        if known is None:
            return state
        self._load(get_version(self.tracking_uri, model=self.model, version=known))
        self.target.promote(model=self.model, version=known)
        return self.target.read(model=self.model)

    def _load(self, version: ModelVersion) -> dict[str, Any]:
        artifact = Artifact(
            model=self.model,
            version=version.version,
            uri=version.source,
            digest=version.tags.get("digest", ""),
            signature=version.tags.get("signature", ""),
        )
        self.target.deploy(artifact)
        golden = self.target.check(model=self.model, version=version.version)
        if not golden.passed:
            raise GateError(
                f"golden requests of {self.model!r} v{version.version} must be within {golden.tolerance:g} of the "
                f"recorded scores; got {golden.max_abs_diff:.3g} over {golden.num_rows} rows. It takes no traffic. "
                "Compare the server's onnxruntime with the trainer's."
            )
        return asdict(golden)

    def _start(self, deployment: Deployment, *, state: RolloutState, trace: Mapping[str, Any]) -> None:
        left_over = {state.canary, state.shadow} - {None}
        if state.canary is None:
            left_over -= {deployment.version}  # the shadow that an earlier try of this task started goes on
        for version in left_over:
            self.target.withdraw(model=self.model, version=str(version))
        if self.spec.rollout.has_shadow:
            self.target.set_shadow(model=self.model, version=deployment.version)
        evidence = {"champion": deployment.champion, "state": "started", "golden": deployment.golden, **trace}
        self._record("shadow", deployment.version, evidence, step="started")

    def _require_newer(self, challenger: ModelVersion, *, champion: str) -> None:
        served = get_version(self.tracking_uri, model=self.model, version=champion)
        newest, known = challenger.tags.get("window_end", ""), served.tags.get("window_end", "")
        if newest < known:
            raise GateError(
                f"challenger {self.model!r} v{challenger.version} must know data at least to {known}, as champion "
                f"v{champion} does; got {newest or 'no window'}. It takes no traffic. Trigger with `force` to "
                "deploy it."
            )

    def _drop_challenger(self, version: str) -> None:
        found = get_alias(self.tracking_uri, model=self.model, alias=CHALLENGER)
        if found is not None and found.version == version:
            delete_alias(self.tracking_uri, model=self.model, alias=CHALLENGER)

    def _remove_all_but(self, *kept: str | None) -> None:
        for version in sorted(self.target.read(model=self.model).loaded - set(kept)):
            self.target.remove(model=self.model, version=version)

    def _withdrawn(self, version: str, state: RolloutState) -> GateError:
        return GateError(
            f"{self.model!r} v{version} must still be in the rollout; got champion {state.champion}, canary "
            f"{state.canary}, shadow {state.shadow}. The routes stay as they are. Trigger with the parameter "
            "`version` to begin again."
        )

    def _cut_off(self, version: str) -> SetupError:
        return SetupError(
            f"{self.model!r} v{version} must be recorded as champion, for it answers all requests; got another one in "
            "the ledger: its promotion was cut off. The routes stay as they are. Clear `promote` to complete it, or "
            f"trigger `rollback_{self.model}`."
        )

    def _record(self, kind: str, version: str, evidence: Mapping[str, Any], *, step: str = "") -> Entry:
        """Record a decision once for each change of the routes: a retry finds it, a rollout begun anew adds another."""
        revision = self.target.read(model=self.model).revision
        parts = (self.run_key, kind, version, f"r{revision}", step)
        return self.ledger.append(
            model=self.model,
            kind=kind,
            subject=version,
            evidence=evidence,
            actor=self.actor,
            key=":".join(part for part in parts if part),
        )
