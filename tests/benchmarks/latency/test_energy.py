"""Meters over files and a program of their own kind, for counters are not to be had everywhere."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from immunecam.benchmarks.latency.energy import RaplMeter, open_meter


def _zone(powercap: Path, name: str, kind: str, energy: int, whole: int = 1000) -> Path:
    zone = powercap / name
    zone.mkdir(parents=True)
    (zone / "name").write_text(kind + "\n")
    (zone / "energy_uj").write_text(f"{energy}\n")
    (zone / "max_energy_range_uj").write_text(f"{whole}\n")
    return zone


def test_rapl_sums_packages_and_counts_on_when_a_counter_goes_round(tmp_path):
    first = _zone(tmp_path, "intel-rapl:0", "package-0", 900)
    _zone(tmp_path, "intel-rapl:0:0", "core", 5)  # a part of the first
    second = _zone(tmp_path, "intel-rapl:1", "package-1", 100)
    _zone(tmp_path, "intel-rapl:2", "psys", 7)  # the whole machine, which has the packages in it
    meter = RaplMeter(tmp_path)
    assert meter.joules() == 0
    (first / "energy_uj").write_text("50\n")
    (second / "energy_uj").write_text("300\n")
    assert meter.joules() == pytest.approx((150 + 200) / 1e6)
    assert meter.joules() == pytest.approx(350 / 1e6)


@pytest.fixture
def no_tegrastats(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def test_without_a_counter_it_says_why(tmp_path, no_tegrastats):
    assert open_meter(tmp_path / "none") == (None, "not known here: no RAPL package, no tegrastats")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_for_root_only_is_said_to_be_one(tmp_path, no_tegrastats):
    (_zone(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj").chmod(0)
    meter, reason = open_meter(tmp_path)
    assert meter is None
    assert "root only" in reason


# 5 W each, as the modules write them: those of an AGX Orin are to be summed, and of a Thor only the input counts.
LINES = {
    "Orin NX": "RAM 3000/7000MB CPU [5%@729] VDD_IN 5000mW/4900mW VDD_CPU_GPU_CV 500mW/500mW VDD_SOC 900mW/900mW",
    "AGX Orin": "RAM 3000/7000MB EMC_FREQ 1%@2133 tj@81C VDD_GPU_SOC 1600mW/1500mW VDD_CPU_CV 400mW/400mW "
    "VIN_SYS_5V0 3000mW/2900mW VDDQ_VDD2_1V8AO 700mW/700mW",
    "Thor": "RAM 3000/7000MB VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 900mW/900mW VIN_SYS_5V0 2000mW/2000mW VIN 5000mW/5100mW",
    "Nano": "RAM 1903/3956MB (lfb 3x1MB) IRAM 0/252kB CPU [3%@102] POM_5V_IN 5000/4900 POM_5V_GPU 40/80",
}


def _tegrastats(tmp_path, monkeypatch, text):
    program = tmp_path / "bin" / "tegrastats"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nwhile :; do echo '{text}'; sleep 0.02; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("module", LINES)
def test_tegrastats_is_summed_over_time(tmp_path, monkeypatch, module):
    _tegrastats(tmp_path, monkeypatch, LINES[module])
    meter, says = open_meter(tmp_path / "none")
    assert "module" in says
    began, before = time.monotonic(), meter.joules()
    time.sleep(0.5)
    joules, seconds = meter.joules() - before, time.monotonic() - began
    meter.close()
    assert joules == pytest.approx(5 * seconds, rel=0.4)  # a sample may be missing on each side
    assert meter.joules() == meter.joules()


def test_a_program_that_tells_no_power_is_no_meter(tmp_path, monkeypatch):
    _tegrastats(tmp_path, monkeypatch, "RAM 3000/7000MB")
    meter, reason = open_meter(tmp_path / "none")
    assert meter is None
    assert "tells no power" in reason
