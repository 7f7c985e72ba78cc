"""The stages of a rollout, each safe to repeat: deploy, shift, settle, promote, roll back.

Where a rollout stands is in the target's routes, never in a worker; what was decided is in the ledger, once a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import ServiceError
from include.registry.models import CHALLENGER, get_alias, get_version
from include.rollout import refusals
from include.rollout.aliases import align_champion, drop_challenger
from include.rollout.decision import Verdict
from include.rollout.deployment import (
    Deployment,
    known_champion,
    load_checked,
    plan_of,
    require_as_recent,
    trace_of,
    with_champion,
)
from include.rollout.history import (
    approver_of,
    begun_of,
    champion_of,
    failed_stages,
    former_champion,
    takeover_of,
    was_taken_out,
)
from include.rollout.left_over import remove_all_but, withdraw_older
from include.rollout.way_back import find_way_back

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
            raise refusals.no_challenger(self.model)
        return found

    def deploy(self, version: str | None, *, force: bool = False, approved_by: str = "") -> Deployment:
        """Load a challenger, score its golden rows, and begin its rollout; a first version only gets that far.

        Raises:
            NotFoundError: There is no such version.
            CorruptArtifactError: Its package does not match its digest, or its graph crashes, hangs or does not run.
            GateError: It scores its golden rows differently, knows less recent data than the champion, or was taken out
                of the rollout meanwhile.
            ServiceError: The routes changed, or another version took over, at the same moment; a retry sees how.
            SetupError: The ledger does not know the champion.
        """
        challenger, after = self.challenger(version), self.ledger.turn_seq(self.model)
        state = with_champion(self.target, self.ledger, model=self.model, tracking_uri=self.tracking_uri)
        if state.champion not in (None, challenger.version):
            champion = known_champion(self.ledger, self.model, routed=str(state.champion), after=after)
            served = get_version(self.tracking_uri, model=self.model, version=champion)
            require_as_recent(challenger, served, force=force)
        golden = load_checked(self.target, challenger)
        deployment = Deployment(
            version=challenger.version,
            champion=state.champion,
            is_bootstrap=state.champion is None,
            is_champion=state.champion == challenger.version,
            golden=golden,
            plan=() if state.champion in (None, challenger.version) else plan_of(self.spec.rollout, state),
        )
        if deployment.has_rivals:
            evidence = {"approved_by": approved_by, **trace_of(challenger)}
            self._start(deployment, state=state, evidence=evidence, after=after)
        return deployment

    def shift(self, version: str, *, share_pct: float) -> None:
        """Give a version its share of the requests; equal shares keep the counters that they have.

        Raises:
            GateError: The version was taken out of the rollout meanwhile.
            ServiceError: The routes changed at the same moment; a retry sees how.
        """
        after = self.ledger.turn_seq(self.model)
        state = self.target.read(model=self.model)
        if state.champion == version:
            return
        wanted = self.spec.rollout
        is_first = not wanted.has_shadow and share_pct <= wanted.shares_pct[0]
        self._require_begun(version, state, is_routed=is_first or version in (state.canary, state.shadow))
        self.target.set_share(model=self.model, version=version, share_pct=share_pct, if_revision=state.revision)
        evidence = {"share_pct": share_pct, "state": "started", "champion": state.champion}
        evidence["approved_by"] = approver_of(self.ledger, self.model, run_key=self.run_key, version=version)
        self._record_routed("canary_step", version, evidence, step="started", after=after)

    def settle(self, version: str, decision: Decision, *, stage: Stage, share_pct: float) -> None:
        """Record how a stage ended; return for a pass.

        Raises:
            GateError: A measure is worse than the spec allows.
            InconclusiveError: There was too little evidence in time.
        """
        kind = "shadow" if stage == "shadow" else "canary_step"
        outcome = {"state": "ended", "verdict": str(decision.verdict), "reasons": list(decision.reasons)}
        self._record(kind, version, {"share_pct": share_pct, **outcome, **decision.evidence}, step="ended")
        if decision.verdict is not Verdict.PASS:
            raise refusals.not_settled(self.model, version, decision, stage=stage, share_pct=share_pct)

    def promote(self, version: str, *, approved_by: str = "") -> Entry:
        """Give a version all requests: routes, then ledger, then alias. The champion before stays loaded.

        Raises:
            GateError: The version was taken out of the rollout meanwhile.
            ServiceError: The routes changed, or another version took over, at the same moment; a retry sees how.
        """
        state, after = self.target.read(model=self.model), self.ledger.turn_seq(self.model)
        newest = self.ledger.takeover(self.model)
        promoted = get_version(self.tracking_uri, model=self.model, version=version)
        if state.champion != version:
            self._require_passed(version, state)
        golden = load_checked(self.target, promoted)
        self.target.promote(model=self.model, version=version, if_revision=state.revision)
        previous = newest.evidence["champion"] if newest else None
        entry = takeover_of(self.ledger, self.model, version) if previous == version else None
        if entry is None:  # else this is a repetition
            approved_by = approved_by or approver_of(self.ledger, self.model, run_key=self.run_key, version=version)
            evidence = {"champion": version, "previous": previous, "approved_by": approved_by, "golden": golden}
            kind, evidence = "bootstrap" if previous is None else "promote", {**evidence, **trace_of(promoted)}
            entry = self._record(kind, version, evidence, after=after)
        align_champion(self.tracking_uri, ledger=self.ledger, model=self.model)
        drop_challenger(self.tracking_uri, model=self.model, version=version)
        remove_all_but(self.target, version, entry.evidence["previous"], model=self.model)
        return entry

    def withdraw(self, version: str | None) -> Entry | None:
        """Take a challenger out: routes, then ledger, then aliases. Without a version, the one that the alias names.

        The champion stays. With nothing to take out, no challenger or only the champion, nothing is recorded.

        Raises:
            SetupError: The version answers all requests, but its promotion was cut off before the ledger knew.
        """
        alias = None if version else get_alias(self.tracking_uri, model=self.model, alias=CHALLENGER)
        found = version or (alias.version if alias else "")
        state, known = self.target.read(model=self.model), champion_of(self.ledger, self.model)
        if found and state.champion == found != known:
            raise refusals.cut_off(self.model, found)
        entry = self._take_out(found, state, known=known) if found not in ("", state.champion) else None
        # A promotion may have been cut off before its alias.
        align_champion(self.tracking_uri, ledger=self.ledger, model=self.model)
        if entry is not None:  # last: by the alias a repetition finds the version again
            drop_challenger(self.tracking_uri, model=self.model, version=found)
        return entry

    def _take_out(self, found: str, state: RolloutState, *, known: str | None) -> Entry:
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
        withdraw_older(self.target, self.ledger, turn=entry)
        kept = (champion_of(self.ledger, self.model), former_champion(self.ledger, self.model))
        if found not in kept:  # whether it is loaded or not: one that never got ready lies about as well
            self.target.remove(model=self.model, version=found)
        return entry

    def roll_back(self, to_version: str | None = None, *, reason: str = "") -> Entry:
        """Give all requests back to the champion before this one, now; there is no canary after that.

        The first champion has none before it: there, a canary or a shadow is all that is taken out. The ledger says who
        that is and whether this run did it already, so a repeated call goes back once only. A version that is still
        loaded takes over before MLflow is asked anything.

        Raises:
            NotFoundError: There was no champion before, and there is no canary or shadow to take out.
            GateError: The former champion must be loaded again, and scores its golden rows differently.
        """
        key = f"{self.run_key}:roll_back"
        done = self.ledger.find(key) or self._go_back(to_version, reason=reason, key=key)
        withdraw_older(self.target, self.ledger, turn=done)
        align_champion(self.tracking_uri, ledger=self.ledger, model=self.model)
        return done

    def _go_back(self, to_version: str | None, *, reason: str, key: str) -> Entry:
        state = self.target.read(model=self.model)
        way = find_way_back(self.ledger, self.model, state=state, wanted=to_version, actor=self.actor, key=f"{key}:way")
        if way.to not in state.loaded:
            load_checked(self.target, get_version(self.tracking_uri, model=self.model, version=way.to))
        self.target.promote(model=self.model, version=way.to)  # whatever the routes have become meanwhile
        evidence = {"champion": way.to, "previous": way.left, "reasons": [reason or "no reason given"]}
        return self.ledger.append(
            model=self.model, kind="roll_back", subject=way.to, evidence=evidence, actor=self.actor, key=key
        )

    def _start(self, deployment: Deployment, *, state: RolloutState, evidence: Mapping[str, Any], after: int) -> None:
        left_over = {state.canary, state.shadow} - {None}
        if state.canary is None:
            left_over -= {deployment.version}  # the shadow that an earlier try of this task started goes on
        for version in left_over:
            self.target.withdraw(model=self.model, version=str(version))
        has_shadow = self.spec.rollout.has_shadow
        now = self.target.read(model=self.model)
        if now.champion != deployment.champion:
            raise refusals.withdrawn(self.model, deployment.version, now)
        if has_shadow:
            self.target.set_shadow(model=self.model, version=deployment.version, if_revision=now.revision)
        begun = {"champion": deployment.champion, "golden": deployment.golden, "plan": deployment.plan}
        self._record_routed("deploy", deployment.version, {**begun, **evidence}, after=after)
        if has_shadow:
            started = {"champion": deployment.champion, "state": "started", "approved_by": evidence["approved_by"]}
            self._record_routed("shadow", deployment.version, started, step="started", after=after)

    def _require_passed(self, version: str, state: RolloutState) -> None:
        """Refuse to promote a version that does not take part as its last stage wants."""
        is_first = state.champion is None and version in state.loaded
        is_routed = version == state.canary or (not self.spec.rollout.shares_pct and version == state.shadow)
        self._require_begun(version, state, is_routed=is_first or is_routed)

    def _require_begun(self, version: str, state: RolloutState, *, is_routed: bool) -> None:
        """Refuse a version that is routed otherwise, or since whose `deploy` nothing stayed as it was."""
        begun = begun_of(self.ledger, self.model, run_key=self.run_key, version=version)
        if begun is not None:
            is_routed &= begun.evidence["champion"] == state.champion and not was_taken_out(self.ledger, begun)
        if not is_routed:
            raise refusals.withdrawn(self.model, version, state)

    def _record_routed(
        self, kind: str, version: str, evidence: Mapping[str, Any], *, step: str = "", after: int
    ) -> None:
        """Record what a version was just routed as, unless there was another turn since: then take it out again."""
        try:
            self._record(kind, version, evidence, step=step, after=after)
        except ServiceError:
            if self.ledger.turn_seq(self.model) == after:
                raise
            self.target.withdraw(model=self.model, version=version)
            raise refusals.withdrawn(self.model, version, self.target.read(model=self.model)) from None

    def _record(
        self, kind: str, version: str, evidence: Mapping[str, Any], *, step: str = "", after: int | None = None
    ) -> Entry:
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
            after=after,
        )
