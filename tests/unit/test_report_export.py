"""Exported results keep every row and every figure, and tables stay tables."""

from __future__ import annotations

import csv
import io
import json

import pytest

from pyanamo_core.model import Output, State
from pyanamo_core.report import Format, Result, export
from pyanamo_core.report.export import COLUMNS
from pyanamo_core.report.figures import tabular

ROWS = [
    Result(
        item_id="DEMO0001",
        task_id="trio",
        nest=0,
        value="demo1:1-40000",
        item_state=State.DONE,
        status="done",
        exit_code=0,
        cause="done",
        started=1_800_000_000.0,
        ended=1_800_000_002.5,
        fence=1,
        outputs=(Output(uri="s3://b/a.g.vcf.gz", bytes=9), Output(uri="s3://b/a.g.vcf.gz.tbi", bytes=3)),
        tags=("depth\t30",),
        figures={"variants": 31, "variant_gq_over": {"20": 30, "60": 12}, "sample": ["DEMO0001"]},
    ),
    Result(
        item_id="DEMO0002",
        task_id="trio",
        nest=0,
        value="demo1:1-40000",
        item_state=State.FAILED,
        status="failed",
        exit_code=65,
        cause="permanent",
        message='sample "X" is not\tin\nthe bucket, sorry',
        figures={"late_figure": 1.5},
    ),
    Result(item_id="DEMO0003", task_id="trio", nest=0, value="", item_state=State.TODO),
]


def exported(form: str) -> str:
    stream = io.StringIO(newline="")
    assert export(ROWS, stream, form) == 3
    return stream.getvalue()


def test_tsv_has_one_line_per_nest_and_the_same_number_of_columns_in_each():
    lines = exported("tsv").splitlines()
    assert len(lines) == 4
    assert len({line.count("\t") for line in lines}) == 1


def test_figures_seen_only_in_a_later_row_have_a_column_too():
    header, first, second, _ = (line.split("\t") for line in exported("tsv").splitlines())
    assert header[: len(COLUMNS)] == list(COLUMNS)
    assert header[len(COLUMNS) :] == [
        "figures.late_figure",
        "figures.sample",
        "figures.variant_gq_over.20",
        "figures.variant_gq_over.60",
        "figures.variants",
    ]
    assert first[header.index("figures.variants")] == "31"
    assert first[header.index("figures.late_figure")] == ""
    assert second[header.index("figures.late_figure")] == "1.5"


def test_csv_gives_back_texts_with_quotes_tabs_and_line_breaks():
    rows = list(csv.DictReader(io.StringIO(exported("csv"), newline="")))
    assert rows[1]["message"] == 'sample "X" is not\tin\nthe bucket, sorry'
    assert rows[0]["outputs"] == "s3://b/a.g.vcf.gz;s3://b/a.g.vcf.gz.tbi"
    assert rows[0]["started"] == "2027-01-15T08:00:00.000Z"
    assert rows[0]["seconds"] == "2.5"
    assert rows[2]["status"] == rows[2]["exit_code"] == ""


def test_json_keeps_lists_objects_and_unknowns():
    first, second, third = json.loads(exported("json"))
    assert first["figures"]["variant_gq_over"] == {"20": 30, "60": 12}
    assert first["outputs"] == ["s3://b/a.g.vcf.gz", "s3://b/a.g.vcf.gz.tbi"]
    assert second["exit_code"] == 65
    assert third["started"] is None


@pytest.mark.parametrize("form", list(Format))
def test_no_rows_make_a_file_that_still_reads(form: Format):
    stream = io.StringIO(newline="")
    assert export([], stream, form) == 0
    if form is Format.JSON:
        assert json.loads(stream.getvalue()) == []
    else:
        assert stream.getvalue().strip().replace(",", "\t").split("\t") == list(COLUMNS)


def test_figures_of_several_gvcfs_become_their_totals_and_weighted_means():
    # Given a nest that made two gVCFs, one of a big and deep locus, one of a small and shallow one
    def gvcf(variants: int, ts: int, tv: int, bases: int, depth: float):
        locus = {"locus": "c:1-9", "bases": bases, "mean_depth": depth, "callable_fraction": 1.0}
        return {"name": "x", "variants": variants, "ts": ts, "tv": tv, "het": 2, "hom": 1, "loci": [locus]}

    told = tabular(
        {"sample": "A", "seconds": {"trim": 0.1}, "gvcfs": [gvcf(10, 4, 2, 900, 30.0), gvcf(2, 2, 1, 100, 10.0)]}
    )
    # Then counts are summed, ratios are of the sums, and means are by bases
    assert (told["variants"], told["titv"], told["het_hom"], told["mean_depth"]) == (12, 2.0, 2.0, 28.0)
    assert (told["sample"], told["seconds.trim"]) == ("A", 0.1)
    assert "gvcfs" not in told


def test_a_list_named_gvcfs_that_is_something_else_stays_what_it_is():
    assert tabular({"gvcfs": ["a", "b"]}) == {"gvcfs": "a;b"}


def test_a_gvcf_of_many_targets_has_its_means_too_although_its_row_names_no_locus():
    # Given the figures of an interval list: contigs' sums, no loci
    sums = {"bases": 100, "depth_sum": 3000, "depth_bases": 100, "block_bases": 80, "callable_bases": 60}
    gvcf = {"bases": 100, "variants": 3, "contigs": {"c": sums}, "ref_bases_by_gq": {"0": 20, "99": 60}}
    told = tabular({"gvcfs": [gvcf, gvcf]})
    assert (told["mean_depth"], told["callable_fraction"]) == (30.0, 0.75)
    assert (told["ref_bases_by_gq.0"], told["ref_bases_by_gq.99"]) == (40, 120)
