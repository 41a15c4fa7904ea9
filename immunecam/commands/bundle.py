"""``immunecam bundle``: keys, signatures, archives, and what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from immunecam.commands.bundle_quantize import quantize
from immunecam.commands.options import BundleState, Json, PassphraseFile, TrustedKey, signing_key, trust_of
from immunecam.errors import InputError, UsageError

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle
    from immunecam.runtime.trust import Trust

__all__ = ["app"]

app = typer.Typer(help="Sign bundles, verify them, look into them, pack them.", no_args_is_help=True)

app.command()(quantize)

_Source = Annotated[Path, typer.Argument(metavar="B", help="Bundle, folder or archive NAME.immune.")]


@app.command()
def keygen(
    private: Annotated[Path, typer.Argument(metavar="PRIVATE.pem", help="Private key to write, mode 0600.")],
    public: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(metavar="PUBLIC.pem", help="Public key to write; default: NAME.pub.pem beside NAME.pem."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a pair of Ed25519 keys: the private one stays with the maker, the public one goes onto devices."""
    from immunecam.runtime.trust import passphrase_from, write_key_pair

    passphrase = passphrase_from(passphrase_file)
    public = private.with_name(f"{private.stem}.pub.pem") if public is None else public
    key = write_key_pair(private, public, passphrase=passphrase)
    how = "in the clear, guard it" if passphrase is None else "encrypted"
    _say(f"wrote {private} (private, {how}) and {public} (public), key {key.public.id}")


@app.command()
def sign(
    bundle: _Source,
    key: Annotated[Path, typer.Option(metavar="PRIVATE.pem", help="Private key.")],
    version: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Version for the manifest, not below the one there; devices load no older one."),
    ] = None,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Name for the manifest, by which devices know its versions; default: the bundle's own."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Check a bundle file by file and sign it; signatures of other keys over the same manifest stay."""
    from immunecam.runtime.bundle_signer import sign_bundle

    private = signing_key(key, passphrase_file)
    assert private is not None
    signed = sign_bundle(bundle, private, version=version, name=name)
    manifest = signed.manifest
    _say(
        f"signed {bundle} as {manifest.name} version {manifest.version} by key {private.public.id} "
        f"(manifest sha256 {signed.sha256[:12]})"
    )


@app.command()
def verify(
    bundle: _Source, trust: TrustedKey = None, bundle_state: BundleState = None, json_report: Json = None
) -> None:
    """Verify signature, version and every file as a device would; nothing is remembered of it."""
    from immunecam.runtime.bundle import read_bundle
    from immunecam.runtime.report import write_report

    policy = trust_of(trust, bundle_state)
    if policy is None:
        raise UsageError("no public key is trusted, so nothing can be verified: give --trust or set IMMUNECAM_TRUST")
    found = read_bundle(bundle, policy, remember=False)
    assert found.signed_by is not None
    manifest = found.manifest
    named = f"{manifest.name or 'unnamed'} version {manifest.version}"
    _say(
        f"{bundle} is whole: {named}, signed by key {found.signed_by.id}, {len(found.files)} files, "
        f"{len(manifest.plans)} plans (manifest sha256 {found.sha256[:12]})"
    )
    if json_report is not None:
        more = {"name": manifest.name, "version": manifest.version, "signed_by": found.signed_by.id}
        write_report(json_report, "immunecam.bundle-verify/1", _files(found), bundle_sha256=found.sha256, **more)


@app.command()
def info(bundle: _Source, trust: TrustedKey = None, bundle_state: BundleState = None, json_report: Json = None) -> None:
    """Show what a bundle holds, and what can be said of its signature; an untrusted one is shown, too."""
    from immunecam.runtime.bundle import read_bundle
    from immunecam.runtime.bundle_manifest import PARTS
    from immunecam.runtime.report import write_report

    policy = trust_of(trust, bundle_state)
    found = read_bundle(bundle, None)
    manifest, signature = found.manifest, _signature(found, policy)
    rows = _files(found)
    facts = {
        "kind": manifest.kind,
        "k": manifest.k,
        "name": manifest.name,
        "version": manifest.version,
        "form": "folder" if found.path.is_dir() else "archive",
        "bytes": sum(row["bytes"] for row in rows) + len(found.manifest_bytes),
        "precision": dict(manifest.precision),
        "signature": signature,
        "plans": [plan.to_dict() for plan in manifest.plans],
    } | {part.KEY: manifest.parts[part.KEY].to_dict() if part.KEY in manifest.parts else None for part in PARTS}
    console = Console()
    named = f"{manifest.name} version {manifest.version}" if manifest.name else f"version {manifest.version}"
    parts = ", ".join(f"{part} {precision}" for part, precision in manifest.precision.items())
    console.print(
        f"{bundle}: {facts['form']}, {manifest.kind}, K = {manifest.k}, {named}, {facts['bytes']} bytes "
        f"(manifest sha256 {found.sha256[:12]}); {parts}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"signature: {signature['says']}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"liveness: {_liveness(found)}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"masking: {_masking(found)}", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("file", "bytes", "sha256", "is"):
        table.add_column(heading, justify="right" if heading == "bytes" else "left", no_wrap=heading != "is")
    for row in rows:
        table.add_row(row["file"], str(row["bytes"]), row["sha256"][:12], escape(row["is"]))
    console.print(table)
    if json_report is not None:
        write_report(json_report, "immunecam.bundle-info/1", rows, bundle_sha256=found.sha256, **facts)


@app.command()
def measured(
    bundle: _Source,
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="JSON of `immunecam evaluate` of this bundle.")],
) -> None:
    """Put the figures of an evaluation into the manifest, before the bundle is signed."""
    from immunecam.runtime.bundle_quality import put_quality

    changed = put_quality(bundle, report)
    _say(
        f"{bundle} says what {report} measured, {len(changed.manifest.quality['rows'])} rows (manifest sha256 "
        f"{changed.sha256[:12]})"
    )


@app.command()
def pack(
    bundle: _Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="Archive to write, NAME.immune.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the archive that is there.")] = False,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
) -> None:
    """Pack a bundle into one file, signature included; devices load it as it is."""
    from immunecam.runtime.bundle_archive import write_archive
    from immunecam.runtime.bundle_signer import signature_of

    found = _load(bundle, trust, bundle_state)
    _check_target(out, overwrite)
    if out.is_dir():
        raise UsageError(f"{out} is a folder, which an archive does not replace: name another file")
    write_archive(out, found.manifest_bytes, signature_of(bundle), found.files)
    _say(f"wrote {out}, {out.stat().st_size} bytes (manifest sha256 {found.sha256[:12]})")


@app.command()
def unpack(
    bundle: _Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write, NAME.immune.")],
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
) -> None:
    """Make a folder of an archive, signature included, for instance to put TensorRT plans into it."""
    from immunecam.runtime.bundle_manifest import MANIFEST
    from immunecam.runtime.bundle_signer import signature_of
    from immunecam.runtime.bundle_writer import put_folder
    from immunecam.runtime.trust import SIGNATURE

    found = _load(bundle, trust, bundle_state)
    _check_target(out, overwrite=False)
    signature = signature_of(bundle)
    more = {} if signature is None else {SIGNATURE: signature}
    put_folder(out, {**found.files, **more, MANIFEST: found.manifest_bytes})
    _say(f"wrote {out} (manifest sha256 {found.sha256[:12]})")


def _load(bundle: Path, trust: list[Path] | None, state: Path | None) -> Bundle:
    from immunecam.runtime.bundle import read_bundle

    return read_bundle(bundle, trust_of(trust, state), remember=False)


def _check_target(out: Path, overwrite: bool) -> None:
    if out.suffix != ".immune":
        raise UsageError(f"the bundle to write is {str(out)!r}, but its name must end in .immune")
    if (out.exists() or out.is_symlink()) and not overwrite:
        raise UsageError(f"{str(out)!r} exists already: name another")


def _files(bundle: Bundle) -> list[dict[str, Any]]:
    """A row for each file: name, size, hash and what it is."""
    manifest = bundle.manifest
    what = {name: role for role, name in manifest.graphs.items()} | {"subspace.safetensors": "mean and eigenfaces"}
    if manifest.liveness is not None:
        what[manifest.liveness.file] = f"liveness network, {manifest.liveness.precision}"
    if manifest.masking is not None:
        says = {"mask": "mask", "picture": "what a mask keeps", "recognizer": "recogniser of masked faces"}
        what |= {name: says[role] for role, name in manifest.masking.graphs.items()}
    for plan in manifest.all_plans:
        key = plan.key
        what[plan.file] = f"TensorRT {key.tensorrt} plan of the {plan.role}, {key.precision}, {key.gpu}"
    return [
        {"file": name, "bytes": record.bytes, "is": what.get(name, ""), "sha256": record.sha256}
        for name, record in sorted(manifest.files.items())
    ]


def _liveness(bundle: Bundle) -> str:
    """What can be said of its liveness network, in half a sentence."""
    record = bundle.manifest.liveness
    if record is None:
        return "none"
    trained = record.provenance.get("backbone", "a network")
    where = "synthetic spoofs" if record.synthetic else record.provenance.get("set", "its own set")
    errors = f", ACER {record.quality['acer']:.1%}" if "acer" in record.quality else ""
    return (
        f"{trained} in {record.precision}, {record.side} px, a face passes from {record.threshold:.3f} on; trained and "
        f"measured on {where}{errors}; no certified presentation attack detection"
    )


def _masking(bundle: Bundle) -> str:
    """What can be said of its mask, in half a sentence."""
    record = bundle.manifest.masking
    if record is None:
        return "none"
    measured = record.quality.get("accuracy_percent")
    accuracy = "" if measured is None else f", {measured:.1f} % of LFW's pairs of fold {record.quality['fold']} right"
    return (
        f"{record.channels} frequencies at {record.positions} positions, a recogniser of masked faces{accuracy}; a "
        "mask is no encryption"
    )


def _signature(bundle: Bundle, policy: Trust | None) -> dict[str, Any]:
    """What can be said of a bundle's signature: its keys, whether one is trusted and holds, and a sentence."""
    from immunecam.runtime.bundle_signer import signature_of
    from immunecam.runtime.trust import SIGNATURE, signatures_from_bytes

    raw = signature_of(bundle.path)
    if raw is None:
        return {"state": "unsigned", "keys": [], "says": "none"}
    try:
        found = signatures_from_bytes(raw, f"The {SIGNATURE} of {bundle.path}")
        keys = [signature.key for signature in found if signature.manifest_sha256 == bundle.sha256]
        if policy is None:
            by = f"says it is by {', '.join(keys)}" if keys else "is of another manifest"
            return {"state": "not verified", "keys": keys, "says": f"{by}; not verified, give --trust"}
        signer = policy.verify(bundle.manifest_bytes, raw, f"The bundle {bundle.path}")
        if policy.versions is not None:
            policy.versions.check(bundle.manifest.name, bundle.manifest.version, f"The bundle {bundle.path}")
    except InputError as error:
        return {"state": "refused", "keys": [], "says": str(error)}
    return {
        "state": "trusted",
        "keys": keys,
        "signed_by": signer.id,
        "says": f"by {signer.id}, which is trusted; holds",
    }


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
