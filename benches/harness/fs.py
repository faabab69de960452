"""`compare fs`: backup and restore of file trees on the local disk."""
import os, shutil, subprocess
from . import tables, tools
from .measure import empty, measured, median, say, settle, size_of, warm

DATA_SETS = {
    "mixed": "1 GiB in 8 files, half of it random, half text",
    "src": "1 GiB in 41,000 source-like files",
    "tiny": "244 MiB in 100,000 files of 1 to 4 KiB",
}


def compare(scratch, program, names, runs, with_peers):
    """Measures each data set; yields Markdown."""
    kinds = [tools.Tar, tools.Ours, tools.OursSealed, *(tools.peers_on_path() if with_peers else [])]
    for name in names:
        data = scratch.data(name)
        made = [kind(scratch.path("archives", f"{name}-{kind.__name__.lower()}"), program) if issubclass(kind, tools.Ours)
                else kind(scratch.path("archives", f"{name}-{kind.__name__.lower()}")) for kind in kinds]
        backups = measure_backups(data, made, runs)
        restores = measure_restores(scratch, data, made, runs)
        yield report(name, data, made, backups, restores, runs)


def rounds(things, runs):
    """Each thing once a round, in changing directions, so that what drifts hits all alike."""
    for number in range(runs):
        for thing in things if number % 2 == 0 else reversed(things):
            yield number, thing


def measure_backups(data, made, runs):
    results = {tool.label: [] for tool in made}
    for number, tool in rounds(made, runs):
        tool.prepare()
        warm(data)
        settle()
        run = measured(tool.backup(data), env=tool.env())
        say(f"  backup  {number + 1}/{runs} {tool.label:32} {run.wall:6.2f} s, cpu {run.cpu:6.2f} s, rss {run.rss >> 20} MiB")
        results[tool.label].append(run)
        no_temporary_files(tool)
    return results


def measure_restores(scratch, data, made, runs):
    variants = [(tool.label + variant, tool, variant) for tool in made for variant in tool.restore_variants("")]
    results = {label: [] for label, _, _ in variants}
    name = os.path.basename(data)
    for number, (label, tool, variant) in rounds(variants, runs):
        target = scratch.fresh(f"{name}-{len(results[label])}", label.replace(" ", "_").replace(",", ""))
        tool.prepare_restore(target)
        warm(tool.stored)
        settle()
        run = measured(tool.restore(target, *tool.restore_variants(target)[variant]), env=tool.env())
        say(f"  restore {number + 1}/{runs} {label:32} {run.wall:6.2f} s, cpu {run.cpu:6.2f} s, rss {run.rss >> 20} MiB")
        results[label].append(run)
        no_temporary_files(tool)
        if number == 0 and isinstance(tool, tools.Ours):
            subprocess.run(["diff", "-r", "--no-dereference", data, target], check=True)
        empty(target)
    return results


def no_temporary_files(tool):
    if isinstance(tool, tools.Ours) and tool.made_temporary_files():
        raise SystemExit(f"{tool.label} made temporary files in TMPDIR")


def against(runs, base):
    """Median of the ratios to the base in the same round."""
    return median([one.wall / other.wall for one, other in zip(runs, base)])


def rows(results, base, stored=None):
    for label, runs in results.items():
        walls = [run.wall for run in runs]
        row = [label, f"{median(walls):.2f}", f"{min(walls):.2f} to {max(walls):.2f}", f"{against(runs, base):.2f}",
               f"{median([run.cpu for run in runs]):.2f}", tables.mib(max(run.rss for run in runs))]
        yield row if stored is None else [*row, f"{stored[label] / (1 << 20):.1f}"]


def report(name, data, made, backups, restores, runs):
    base = made[0].label
    stored = {tool.label: size_of(tool.stored) for tool in made}
    head = ["", "s", "from, to", "of tar's", "CPU s", "peak RSS, MiB"]
    ours = made[1]
    entries, volumes, index = ours.figures()
    tar_size = stored[base]
    ratio = lambda results, one, other: against(results[one], results[other])
    goals = [
        ("backup, of tar's time", ratio(backups, ours.label, base), 1.2 if name == "tiny" else 1.0, "x"),
        ("sealed backup, of the unsealed one's time", ratio(backups, made[2].label, ours.label), 1.15, "x"),
        ("restore --no-verify, of tar's time", ratio(restores, ours.label + ", --no-verify", base), 1.2, "x"),
        ("volumes, of tar's size", volumes / tar_size, 1.02, "x"),
        ("peak RSS, MiB", max(run.rss for tool in made[1:3] for run in backups[tool.label]) / (1 << 20), 256, ""),
        ("peak RSS of a restore, MiB", max(run.rss for label, some in restores.items() if "backup" in label for run in some) / (1 << 20), 256, ""),
    ]
    # What the index says of the volumes counts for nothing but among many entries.
    if entries > 1000:
        goals.append(("index, stored bytes an entry", index / entries, 64, ""))
    for peer, limit in (("restic", 0.5), ("rustic", 0.6)):
        if peer in backups:
            goals.append((f"backup, of {peer}'s time", ratio(backups, ours.label, peer), limit, "x"))
            goals.append((f"restore --no-verify, of {peer}'s time", ratio(restores, ours.label + ", --no-verify", peer), 1.0, "x"))
    return "\n\n".join([
        f"### {name}: {DATA_SETS[name]}",
        f"Backup, medians of {runs}:",
        tables.table([*head, "stored, MiB"], rows(backups, backups[base], stored)),
        f"Restore, medians of {runs}:",
        tables.table(head, rows(restores, restores[base])),
        tables.goals(goals),
        f"{entries} entries; volumes {volumes} bytes, index {index} bytes; the tar pipe's file {tar_size} bytes. "
        "No temporary files outside of destination and target.",
    ])


def versions(program, with_peers):
    lines = [f"{tool.label}: {tool.version()}" for tool in [tools.Tar(""), tools.Ours("", program)]]
    if with_peers:
        lines += [f"{kind.label}: {kind('').version()}" for kind in tools.peers_on_path()]
        missing = [kind.program for kind in tools.PEERS if not shutil.which(kind.program)]
        lines += [f"not measured, because not installed: {', '.join(missing)}"] if missing else []
    return "\n".join(f"- {line}" for line in lines)
