"""The evaluation itself: craft, judge, compare, each step kept in the work folder."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation import metrics, sanity
from immunecam.benchmarks.evaluation.defences import Defence
from immunecam.benchmarks.evaluation.pairs import Pairs
from immunecam.benchmarks.evaluation.protocol import CHUNK, STRAIGHT_THROUGH, UNBOUNDED, Planned, Protocol
from immunecam.benchmarks.evaluation.purified import PurifiedFaces
from immunecam.benchmarks.evaluation.store import Store, digest
from immunecam.errors import UsageError
from immunecam.training.attacks import PGD, Goal, Square, continued
from immunecam.training.faces import from_uint8, to_uint8
from immunecam.training.recognizer import Recognizer
from immunecam.training.resampling import Resampling

__all__ = ["Evaluation", "Job", "Victim"]

_ONE_SIZE = 4  # resampled faces that share the size at which they are in the frame
_BATCH = 32
_GOALS = ("dodging", "impersonation")


@dataclass(frozen=True)
class Victim:
    """A recogniser with the thresholds that it has before any defence.

    Attributes
    ----------
    recognizer : Recognizer
    best, fmr : float
        Cosine of best accuracy, and of a false match rate of 1e-3, on clean training pairs.
    """

    recognizer: Recognizer
    best: float
    fmr: float

    @property
    def name(self) -> str:
        """The recogniser's."""
        return self.recognizer.name


@dataclass(frozen=True)
class Job:
    """Faces to craft.

    Attributes
    ----------
    threat : str
        "clean", "grey-box", "resampled" (grey-box, then into a frame and back), "transfer", "adaptive" or
        "unbounded".
    victim : Victim
        Who judges.
    planned : Planned or None
        The attack; None for clean faces.
    source : Victim
        Whom the attacker has at hand: the victim, but for transfer.
    through : Defence or None
        What the attacker differentiates; None attacks the bare recogniser.
    pairs : int
        How many.
    """

    threat: str
    victim: Victim
    planned: Planned | None
    source: Victim
    through: Defence | None
    pairs: int


class Evaluation:
    """A protocol on one set of pairs, recognisers and defences.

    Parameters
    ----------
    protocol : Protocol
        What is measured.
    pairs : Pairs
        Of the protocol's fold, as many as it asks for.
    victims : sequence of Victim
        Each is attacked in turn, and is the others' transfer source.
    baselines, defences : sequence of Defence
        The classical ones (the first is no defence at all), and those in question.
    store : Store
        Work folder.
    device : str
        Where attacks are computed.
    tell : callable, optional
        Called with (what, done, total) as work goes on.
    """

    def __init__(
        self,
        protocol: Protocol,
        pairs: Pairs,
        victims: Sequence[Victim],
        baselines: Sequence[Defence],
        defences: Sequence[Defence],
        store: Store,
        *,
        device: str = "cpu",
        tell: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.protocol, self.pairs, self.victims = protocol, pairs, victims
        self.baselines, self.defences = baselines, defences
        self.store, self._device = store, device
        self._tell = tell or (lambda what, done, total: None)
        self.pairs_sha256 = hashlib.sha256(
            pairs.left.tobytes() + pairs.right.tobytes() + pairs.same.tobytes()
        ).hexdigest()
        self._purified = PurifiedFaces()
        self._enrolled: dict[tuple[str, str, int, int], NDArray[np.float32]] = {}
        self._clean_probes: dict[tuple[str, int], NDArray[np.float32]] = {}
        self._enrolled_combined: dict[tuple[str, str, int], dict[str, NDArray[np.float32]]] = {}

    def on(self, pairs: Pairs) -> Evaluation:
        """The same defences, without the classical ones, on other pairs."""
        return Evaluation(
            self.protocol,
            pairs,
            self.victims,
            self.baselines[:1],
            self.defences,
            self.store,
            device=self._device,
            tell=self._tell,
        )

    # -- what is to be done --------------------------------------------------------------------------------------

    def jobs(self, *, adaptive: bool = True) -> list[Job]:
        """Everything that has to be crafted and judged; the jobs of one set of faces follow one another."""
        protocol, everything = self.protocol, len(self.pairs)
        balanced = 2 * min(int(self.pairs.same.sum()), int((~self.pairs.same).sum()))
        if protocol.adaptive_pairs % 2 or protocol.unbounded_pairs % 2:
            raise UsageError(
                f"the pairs of attacks through the defences are {protocol.adaptive_pairs} and "
                f"{protocol.unbounded_pairs}: give even numbers, half of them are of same people"
            )
        fewer = min(balanced, protocol.adaptive_pairs) if protocol.adaptive_pairs else everything
        few = min(balanced, protocol.unbounded_pairs)
        limitless = Planned("PGD-40", PGD(steps=40), UNBOUNDED)
        jobs = []
        for victim in self.victims:
            jobs.append(Job("clean", victim, None, victim, None, everything))
            jobs += [Job("grey-box", victim, plan, victim, None, everything) for plan in protocol.grey_box]
            jobs += [Job("resampled", victim, plan, victim, None, everything) for plan in protocol.resampled]
            for source in self.victims:
                if source is not victim:
                    jobs += [Job("transfer", victim, plan, source, None, everything) for plan in protocol.transfer]
            jobs.append(Job("unbounded", victim, limitless, victim, None, few))
        if adaptive:
            for victim in self.victims:
                for defence in self.defences:
                    plans = [
                        plan
                        for level in protocol.adaptive_levels
                        for plan in protocol.adaptive(level, draws=defence.draws)
                    ]
                    jobs += [
                        Job("adaptive", victim, plan, victim, defence, fewer)
                        for plan in (*plans, *protocol.adaptive_others)
                    ]
                    jobs.append(Job("unbounded", victim, limitless, victim, defence, few))
                # The classical filters are not what is in question: one attack tells enough.
                simplest = [protocol.adaptive(level, draws=False)[0] for level in protocol.baseline_levels]
                jobs += [
                    Job("adaptive", victim, plan, victim, defence, fewer)
                    for defence in self.baselines[1:]
                    for plan in simplest
                ]
        return [job for group in self.groups(jobs) for job in group]

    def groups(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Jobs that judge the same faces, or what is left of them by an attack before, clean ones first: what one of
        them crafted and purified serves the others."""
        groups: dict[str, list[Job]] = {}
        for job in sorted(jobs, key=lambda job: job.planned is not None):
            first = job
            while first.planned is not None and first.planned.after is not None:
                first = dataclasses.replace(first, planned=first.planned.after)
            groups.setdefault("clean" if first.planned is None else digest(self._key(first)), []).append(job)
        return list(groups.values())

    def judges(self, job: Job) -> list[Defence]:
        """The defences that a job's faces are shown to."""
        if job.through is not None:
            return [job.through]
        if job.threat == "unbounded":
            return [self.baselines[0]]
        return [*self.baselines, *self.defences]

    # -- crafting ------------------------------------------------------------------------------------------------

    def crafted(self, job: Job) -> NDArray[np.uint8]:
        """Attacked probes of a job, from the work folder as far as it has them."""
        pairs = self._chosen(job.pairs)
        if job.planned is None:
            return pairs.left
        count = -(-len(pairs) // CHUNK)
        parts = []
        for number in range(count):
            self._tell(self.title(job), number, count)
            parts.append(self._part(job, number))
        return np.concatenate(parts)

    def _part(self, job: Job, number: int) -> NDArray[np.uint8]:
        """One chunk of them."""
        pairs, part = self._chosen(job.pairs), slice(number * CHUNK, (number + 1) * CHUNK)
        chosen = Pairs(pairs.left[part], pairs.right[part], pairs.same[part])
        key = {**self._key(job), "chunk": number, "size": CHUNK}

        def attack() -> dict[str, NDArray[np.uint8]]:
            first = job.planned.after if job.planned is not None else None
            before = None if first is None else self._part(dataclasses.replace(job, planned=first), number)
            return {"faces": self._attack(job, chosen, key, before)}

        return self.store.get(key, attack)["faces"]

    def title(self, job: Job) -> str:
        """What a job is, for people."""
        if job.planned is None:
            return f"{job.victim.name}: clean"
        where = f" through {job.through.name}" if job.through else ""
        source = f" on {job.source.name}" if job.source is not job.victim else ""
        return f"{job.victim.name}: {job.threat} {job.planned.name} {job.planned.budget}{source}{where}"

    def _key(self, job: Job) -> dict[str, Any]:
        assert job.planned is not None
        attack = job.planned.attack
        return {
            "kind": "crafted/2",
            "faces": self.pairs_sha256,
            "pairs": job.pairs,
            "recognizer": job.source.recognizer.sha256,
            "threshold": job.source.best,
            "attack": [type(attack).__name__, dataclasses.asdict(attack), *([v] if (v := attack.version) > 1 else [])],  # type: ignore[call-overload]
            "gradient": job.planned.gradient or job.planned.name,
            "epsilon": job.planned.epsilon,
            "through": None if job.through is None else job.through.key,
            "seed": self.protocol.seed,
            **(
                {"after": self._key(dataclasses.replace(job, planned=first)), "cascade": 2}
                if (first := job.planned.after)
                else {}
            ),
        }

    def _attack(
        self, job: Job, pairs: Pairs, key: dict[str, Any], before: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        assert job.planned is not None
        torch.manual_seed(int(digest(key)[:15], 16))
        recognizer, defence = job.source.recognizer, job.through
        gradient = job.planned.gradient or STRAIGHT_THROUGH
        embed = recognizer if defence is None else defence.before(recognizer, gradient)
        left, right = (from_uint8(torch.from_numpy(x)).to(self._device) for x in (pairs.left, pairs.right))
        with torch.no_grad():
            # The attacker has the enrolled picture, and knows that it goes through the defence, too.
            exact = "expected" if defence is None or defence.draws else STRAIGHT_THROUGH
            reference = recognizer(right if defence is None else defence.seen(right, exact))
        out = left.clone()
        for impersonate in (False, True):
            rows = torch.from_numpy(np.flatnonzero(pairs.same != impersonate)).to(self._device)
            if len(rows):
                goal = Goal(embed, reference[rows], impersonate, job.source.best)
                tried = None if before is None else from_uint8(torch.from_numpy(before)).to(self._device)[rows]
                attack, epsilon = job.planned.attack, job.planned.epsilon
                if tried is None:
                    out[rows] = attack(goal, left[rows], epsilon)
                else:
                    enough, draws = getattr(attack, "margin", None) or 0.0, getattr(attack, "draws", 1)
                    out[rows] = continued(attack, goal, left[rows], epsilon, tried, margin=enough, draws=draws)
        return to_uint8(out.cpu()).numpy()

    # -- judging -------------------------------------------------------------------------------------------------

    def cosines(self, job: Job, defence: Defence, draws: int) -> dict[str, NDArray[np.float32]]:
        """Cosines (draws, N) with both sides purified ("both"), and with the probe purified only ("probe"); and of the
        purified probe with the clean one ("clean").

        A defence that draws is also asked for several antibodies of the same face, as many as a figure is the mean of,
        and the two faces are compared once, (1, N): by the mean of the purified faces ("mean"), and by the embedding
        that is most like the others ("medoid").
        """
        key = {
            "kind": "cosines/4",
            "combined": self.protocol.judge_draws if defence.draws else 0,
            "crafted": None if job.planned is None else self._key(job),
            "faces": self.pairs_sha256,
            "pairs": job.pairs,
            "victim": job.victim.recognizer.sha256,
            "defence": defence.key,
            "provider": defence.provider,
            "draws": draws,
            "seed": self.protocol.seed,
        }
        if job.threat == "resampled":
            key["resampled"] = 2

        def compute() -> dict[str, NDArray[np.float32]]:
            probes = self.crafted(job)
            if job.threat == "resampled":
                probes = self._resampled(probes)
            bare = self._enrolment(job.victim, self.baselines[0], job.pairs, 0)
            own = self._clean(job.victim, job.pairs)
            both, probe, clean, kept = [], [], [], []
            for draw in range(draws):
                self._tell(f"{self.title(job)}, judged behind {defence.name}", draw, draws)
                purified = self._purified.of(probes, defence, 2 * draw)
                found = self._embedded(job.victim, purified)
                both.append((found * self._enrolment(job.victim, defence, job.pairs, 2 * draw + 1)).sum(1))
                probe.append((found * bare).sum(1))
                clean.append((found * own).sum(1))
                if defence.draws and draw < self.protocol.judge_draws:
                    kept.append((purified, found))
            cosines = {"both": np.stack(both), "probe": np.stack(probe), "clean": np.stack(clean)}
            if kept:
                enrolled = self._combined(job.victim, defence, job.pairs)
                for way, value in self._combine(job.victim, kept).items():
                    cosines[way] = (value * enrolled[way]).sum(1)[None]
            return cosines

        return self.store.get(key, compute)

    def _resampled(self, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Faces into frames and back, a size for every few, a turn and a shift for each."""
        parts = []
        for number, part in enumerate(torch.from_numpy(faces).split(_ONE_SIZE)):
            torch.manual_seed(self.protocol.seed + number)
            parts.append(to_uint8(Resampling(len(part))(from_uint8(part))))
        return torch.cat(parts).numpy()

    def _enrolment(self, victim: Victim, defence: Defence, pairs: int, draw: int) -> NDArray[np.float32]:
        key = (victim.recognizer.sha256, defence.key, pairs, draw if defence.draws else 0)
        if key not in self._enrolled:
            self._enrolled[key] = self._embedded(victim, self._purified.of(self._chosen(pairs).right, defence, draw))
        return self._enrolled[key]

    def _clean(self, victim: Victim, pairs: int) -> NDArray[np.float32]:
        """Embeddings (N, E) of the clean probes, which every attack and defence is compared with."""
        key = (victim.recognizer.sha256, pairs)
        if key not in self._clean_probes:
            self._clean_probes[key] = self._embedded(victim, self._chosen(pairs).left)
        return self._clean_probes[key]

    def _combined(self, victim: Victim, defence: Defence, pairs: int) -> dict[str, NDArray[np.float32]]:
        """Embeddings (N, E) of the enrolled faces, each from several antibodies."""
        key = (victim.recognizer.sha256, defence.key, pairs)
        if key not in self._enrolled_combined:
            right, draws = self._chosen(pairs).right, [2 * n + 1 for n in range(self.protocol.judge_draws)]
            kept = [
                (self._purified.of(right, defence, draw), self._enrolment(victim, defence, pairs, draw))
                for draw in draws
            ]
            self._enrolled_combined[key] = self._combine(victim, kept)
        return self._enrolled_combined[key]

    def _combine(
        self, victim: Victim, kept: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]]
    ) -> dict[str, NDArray[np.float32]]:
        mean = np.rint(np.mean([faces for faces, _ in kept], axis=0)).astype(np.uint8)
        found = np.stack([embedded for _, embedded in kept])
        medoid = np.einsum("sne,tne->sn", found, found).argmax(0)
        return {"mean": self._embedded(victim, mean), "medoid": found[medoid, np.arange(found.shape[1])]}

    def _chosen(self, pairs: int) -> Pairs:
        return self.pairs.first(pairs) if pairs < len(self.pairs) else self.pairs

    def _embedded(self, victim: Victim, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            parts = torch.from_numpy(pixels).split(_BATCH)
            found = [victim.recognizer(from_uint8(part).to(self._device)).cpu() for part in parts]
        return torch.cat(found).numpy()

    # -- figures -------------------------------------------------------------------------------------------------

    def rows(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Figures of every job behind every defence that judges it."""
        for job in jobs:
            for defence in self.judges(job):
                draws = self.draws(job, defence)
                found = self.cosines(job, defence, draws)
                if job.threat == "unbounded":
                    continue
                attack, count = job.planned.name if job.planned else "none", self.protocol.judge_draws
                # An attacker through the defence aims at a purified enrolment; of a bare one he would know.
                for side in ("both", "probe") if job.through is None else ("both",):
                    yield self._row(job, defence, side, found[side][:count], attack)
                if defence.draws:
                    # This one of the ordered draws is accepted if and only if more than half of them are.
                    vote = np.sort(found["both"][:count], axis=0)[(count - 1) // 2]
                    for way, value in (("vote", vote[None]), ("mean", found["mean"]), ("medoid", found["medoid"])):
                        yield self._row(job, defence, f"{way} of {count}", value, attack)
                if self._resubmitted(job, defence):
                    yield self._resubmission(job, defence, found["both"], attack)
        if any(job.threat == "adaptive" for job in jobs):
            yield from self._strongest(jobs)

    def draws(self, job: Job, defence: Defence) -> int:
        if not defence.draws:
            return 1
        if self._resubmitted(job, defence) or job.threat == "adaptive":
            return max(self.protocol.judge_draws, self.protocol.resubmissions)
        return self.protocol.judge_draws

    def _resubmitted(self, job: Job, defence: Defence) -> bool:
        if not defence.draws or job.planned is None:
            return False
        grey = job.threat == "grey-box" and (job.planned.name, job.planned.level) == self.protocol.resubmitted
        return grey or job.threat == "adaptive"

    def _same(self, job: Job) -> NDArray[np.bool_]:
        return self._chosen(job.pairs).same

    def _row(
        self, job: Job, defence: Defence, side: str, cosine: NDArray[np.float32], attack: str, threat: str | None = None
    ) -> dict[str, Any]:
        same, victim = self._same(job), job.victim
        genuine, impostor = metrics.rates(cosine, same, victim.best)
        tar, true_reject = metrics.rates(cosine, same, victim.fmr)
        decided = metrics.decisions(cosine, same, victim.best)
        low, high = metrics.interval(*decided, rates=True)
        goals = [metrics.interval(part, rates=True) for part in decided]
        tar_low, tar_high = metrics.interval(metrics.decisions(cosine, same, victim.fmr)[0], rates=True)
        row = {
            "recognizer": victim.name,
            "threat": threat or job.threat,
            "attack": attack,
            "budget": job.planned.budget if job.planned else "0",
            "source": job.source.name if job.source is not victim else None,
            "defence": defence.name,
            "purified": side,
            "pairs": len(same),
            "draws": len(np.atleast_2d(cosine)),
            "same_accepted_percent": _percent(genuine),
            "different_rejected_percent": _percent(impostor),
            "same_accepted_95_percent": [_percent(value) for value in goals[0]],
            "different_rejected_95_percent": [_percent(value) for value in goals[1]],
            "accuracy_percent": _percent((genuine + impostor) / 2),
            "accuracy_low_percent": _percent(low),
            "accuracy_high_percent": _percent(high),
            "tar_at_fmr_percent": _percent(tar),
            "tar_low_percent": _percent(tar_low),
            "tar_high_percent": _percent(tar_high),
            "different_rejected_at_fmr_percent": _percent(true_reject),
        }
        if job.planned is None and defence is not self.baselines[0]:
            bare = self.cosines(job, self.baselines[0], 1)["both"]
            drop = metrics.accuracy(bare, same, victim.best) - metrics.accuracy(cosine, same, victim.best)
            before = metrics.decisions(bare, same, victim.best)
            drop_low, drop_high = metrics.interval(*(b - a for b, a in zip(before, decided, strict=True)))
            kept, known = metrics.decisions(cosine, same, victim.fmr)[0], metrics.decisions(bare, same, victim.fmr)[0]
            tar_drop_low, tar_drop_high = metrics.interval(known - kept)
            row |= {
                "drop_points": _percent(drop),
                "drop_low_points": _percent(drop_low),
                "drop_high_points": _percent(drop_high),
                "tar_drop_points": _percent(float(known.mean()) - tar),
                "tar_drop_low_points": _percent(tar_drop_low),
                "tar_drop_high_points": _percent(tar_drop_high),
            }
        return row

    def _resubmission(self, job: Job, defence: Defence, cosine: NDArray[np.float32], name: str) -> dict[str, Any]:
        """A success counts if any of the presentations has it: the best cosine for the attacker of each pair."""
        tries = cosine[: self.protocol.resubmissions]
        best = np.where(self._same(job), tries.min(0), tries.max(0))
        return self._row(job, defence, "both", best, f"{name}, best of {len(tries)} submissions", "resubmission")

    def _strongest(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """The attacker takes, for each face, the attack that did best in draws that are not those it is judged by."""
        for cell in self._cells(jobs):
            job, defence = cell[0], cell[0].through
            assert defence is not None
            if defence not in self.defences:
                continue  # there is one attack only
            name = f"strongest of {len(cell)}"
            yield self._row(job, defence, "both", self._best_cosine(cell), name)
            if defence.draws:
                yield self._resubmission(job, defence, self._best_cosine(cell, every_draw=True), name)

    def _cells(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Adaptive jobs that share victim, defence and budget."""
        cells: dict[tuple[str, str, str], list[Job]] = {}
        for job in jobs:
            if job.threat == "adaptive":
                assert job.through is not None
                assert job.planned is not None
                cells.setdefault((job.victim.name, job.through.name, job.planned.budget), []).append(job)
        return list(cells.values())

    def _best_cosine(self, cell: Sequence[Job], *, every_draw: bool = False) -> NDArray[np.float32]:
        """Cosines (draws, N) of each pair's best attack; chosen and judged by `every_draw`, or by a half each."""
        defence, same = cell[0].through, self._same(cell[0])
        assert defence is not None
        found = np.stack([self.cosines(job, defence, self.draws(job, defence))["both"] for job in cell])
        draws = found.shape[1]
        choosing, judging = (
            (slice(0, draws), slice(0, draws))
            if draws == 1 or every_draw
            else (slice(0, draws // 2), slice(draws // 2, draws))
        )
        threshold = cell[0].victim.best
        # Most often through first; of equals, the one that is further through on average.
        gain = np.where(same, -1.0, 1.0) * (found[:, choosing] - threshold)
        merit = (gain > 0).mean(1) + 1e-3 * np.clip(gain.mean(1), -1, 1)
        chosen = merit.argmax(0)
        best: NDArray[np.float32] = found[chosen, :, np.arange(found.shape[2])].T[judging]
        return best

    # -- sanity --------------------------------------------------------------------------------------------------

    def checks(self, jobs: Sequence[Job]) -> list[sanity.Check]:
        """The sanity block."""
        checks, none = [], self.baselines[0]
        for victim in self.victims:
            own = [job for job in jobs if job.victim is victim]
            grey = {
                (job.planned.name, job.planned.level): self._success(job, none)
                for job in own
                if job.threat == "grey-box" and job.planned is not None
            }
            ladder = sorted(level for name, level in grey if name == "PGD-40")
            for weaker, stronger in itertools.pairwise(ladder):
                name = f"{victim.name}: grey-box success does not fall from {weaker:g} to {stronger:g}/255"
                checks.append(sanity.not_below(name, grey["PGD-40", weaker], grey["PGD-40", stronger]))
            if ("PGD-10", 8.0) in grey and ("PGD-40", 8.0) in grey:
                name = f"{victim.name}: PGD-40 is not weaker than PGD-10 at 8/255"
                checks.append(sanity.not_below(name, grey["PGD-10", 8.0], grey["PGD-40", 8.0]))
            for job in own:
                if job.threat == "unbounded":
                    behind = job.through or none
                    name = f"{victim.name}: {UNBOUNDED:g}/255 breaks {behind.name}"
                    checks.append(sanity.reaches(name, self._success(job, behind), 1.0))
            cells = self._cells(own)
            for cell in cells:
                checks += self._white_box_checks(cell, own, cells)
            if not cells:
                name = f"{victim.name}: white-box is not weaker than grey-box and transfer"
                checks.append(sanity.not_measured(name, "attacks through the defences were left out"))
            elif not any(job.threat == "transfer" for job in own):
                name = f"{victim.name}: white-box is not weaker than transfer"
                checks.append(sanity.not_measured(name, "it takes a second recogniser and transfer attacks"))
        return checks

    def _white_box_checks(
        self, cell: Sequence[Job], own: Sequence[Job], cells: Sequence[Sequence[Job]]
    ) -> Iterator[sanity.Check]:
        job, defence, victim = cell[0], cell[0].through, cell[0].victim
        assert defence is not None
        assert job.planned is not None
        level, budget = job.planned.level, job.planned.budget
        place = f"at {budget} behind {defence.name}"
        white = self._rates(self._best_cosine(cell), self._same(job), victim.best)
        for other in own:
            if other.threat in ("grey-box", "transfer") and other.planned is not None:
                if other.planned.budget != budget:
                    continue
                source = f" from {other.source.name}" if other.source is not victim else ""
                whom = f"{other.threat} {other.planned.name}{source}"
                name = f"{victim.name}: white-box is not weaker than {whom} {place}"
                yield sanity.not_below(name, self._success(other, defence, job.pairs), white)
        blind = [one for one in cell if one.planned is not None and isinstance(one.planned.attack, Square)]
        if blind:
            name = f"{victim.name}: attacks by gradients are not weaker than those without {place}"
            seeing = self._best_cosine([one for one in cell if one not in blind])
            yield sanity.not_below(
                name, self._success(blind[0], defence), self._rates(seeing, self._same(job), victim.best)
            )
        steps = sorted(
            (one for one in cell if one.planned is not None and one.planned.name.startswith("expected PGD-")),
            key=lambda one: int(one.planned.name.rpartition("-")[2]) if one.planned else 0,
        )
        for fewer, more in itertools.pairwise(steps):
            assert fewer.planned is not None
            assert more.planned is not None
            name = f"{victim.name}: {more.planned.name} is not weaker than {fewer.planned.name} {place}"
            yield sanity.not_below(name, self._success(fewer, defence), self._success(more, defence))
        doubled = f"{2 * level:g}/255" if job.planned.attack.norm == "linf" else None
        for next_ in cells:
            higher = next_[0]
            if higher.through is defence and higher.planned is not None and higher.planned.budget == doubled:
                rise = f"from {level:g} to {2 * level:g}/255"
                name = f"{victim.name}: adaptive success does not fall {rise} behind {defence.name}"
                rates = self._rates(self._best_cosine(next_), self._same(higher), victim.best)
                yield sanity.not_below(name, white, rates)

    def _success(self, job: Job, defence: Defence, pairs: int | None = None) -> dict[str, NDArray[np.float64]]:
        """How often each pair's attack succeeds, by goal; of the first `pairs` pairs only, to compare with another."""
        cosine, same = self.cosines(job, defence, self.draws(job, defence))["both"], self._same(job)
        if pairs is not None and pairs < len(same):
            rows = self.pairs.first_rows(pairs)
            cosine, same = cosine[:, rows], same[rows]
        return self._rates(cosine, same, job.victim.best)

    @staticmethod
    def _rates(
        cosine: NDArray[np.float32], same: NDArray[np.bool_], threshold: float
    ) -> dict[str, NDArray[np.float64]]:
        accepted, rejected = metrics.decisions(cosine, same, threshold)
        return dict(zip(_GOALS, (1 - accepted, 1 - rejected), strict=True))


def _percent(fraction: float) -> float:
    return round(100 * fraction, 2)
