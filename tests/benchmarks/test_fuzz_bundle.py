"""A few hundred mutated bundles, the campaign's own eyes, and the committed result of the 20,000."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from immunecam.benchmarks import fuzz_bundle
from immunecam.benchmarks.bundle_mutations import ARCHIVE_MUTATIONS, CONTENT_MUTATIONS
from immunecam.benchmarks.fuzz_bundle import Campaign
from immunecam.errors import InputError
from immunecam.runtime import bundle_manifest
from immunecam.runtime.trust import policy, seen_versions

COUNT = int(os.environ.get("IMMUNECAM_FUZZ_COUNT", "330"))
KINDS = 2 * len(CONTENT_MUTATIONS) + len(ARCHIVE_MUTATIONS)


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path, seed=1)


def test_no_mutated_bundle_crashes_or_is_accepted(campaign: Campaign) -> None:
    """`IMMUNECAM_FUZZ_COUNT` makes it more."""
    outcome = campaign.run(range(COUNT))
    assert outcome.failures == []
    assert outcome.refused.total() + outcome.accepted.total() == COUNT
    assert outcome.refused.total() > 0.9 * COUNT
    assert outcome.stopped_by_trust > 0.15 * COUNT
    assert outcome.slowest[0] < 20
    for form, name in (("folder", "rolled back"), ("folder", "rehashed file"), ("archive", "member twice")):
        assert outcome.refused[form, name] == COUNT // KINDS
        assert outcome.accepted[form, name] == 0


def test_a_mutation_can_be_made_again(tmp_path: Path) -> None:
    one, other = (Campaign(tmp_path / name, seed=1) for name in "ab" if not (tmp_path / name).mkdir())
    for number in range(2 * KINDS):
        assert one.mutation(number) == other.mutation(number)


def test_a_signature_that_is_not_verified_is_noticed(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "trusted_signer", lambda manifest, signatures, keys, where: keys[0])
    assert any("a change was accepted" in failure for failure in campaign.run(range(KINDS)).failures)


def test_a_version_that_is_not_compared_is_noticed(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_versions.SeenVersions, "check", lambda *_: None)
    monkeypatch.setattr(seen_versions.SeenVersions, "remember", lambda *_: None)
    failures = campaign.run(range(KINDS)).failures
    assert {failure.partition(" ")[2] for failure in failures} == {
        "(folder, rolled back): a change was accepted",
        "(archive, rolled back): a change was accepted",
    }


def test_a_crash_is_noticed(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyError("files")

    monkeypatch.setattr(bundle_manifest._Reader, "files", crash)
    assert any("KeyError" in failure for failure in campaign.run(range(KINDS)).failures)


def test_an_error_of_several_lines_is_noticed(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    def loud(*_: object) -> None:
        raise InputError("one\ntwo.")

    monkeypatch.setattr(bundle_manifest._Reader, "files", loud)
    assert any("no clear sentence" in failure for failure in campaign.run(range(KINDS)).failures)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "r.json"
    assert fuzz_bundle.main(["--count", "33", "--json", str(report)]) == 0
    content = json.loads(report.read_text())
    assert (content["count"], content["failures"], len(content["rows"])) == (33, 0, KINDS)
    assert fuzz_bundle.main(["--only", "7"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("7 (folder, rolled back): The bundle gate.immune is")


def test_committed_result() -> None:
    """What the documents say was run."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "fuzz_bundle.json"
    content = json.loads(path.read_text())
    assert content["count"] == 20_000
    assert content["failures"] == 0
    assert len(content["rows"]) == KINDS
    assert sum(row["refused"] + row["accepted_identical"] for row in content["rows"]) == 20_000
