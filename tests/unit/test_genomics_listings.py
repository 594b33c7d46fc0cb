"""Lists of samples that people have: tables, sequence.index files, pedigrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyanamo_core.genomics.listings import (
    ListingInvalid,
    data_beside,
    is_listing,
    read_ped,
    read_sequence_index,
    read_table,
    with_sexes,
)
from pyanamo_core.genomics.samples import Reads

HEADER = "##FileDate=20190503\n##ENA_FILE_PATH=path to ENA file on ENA ftp site\n"
INDEX = HEADER + (
    "#ENA_FILE_PATH\tMD5SUM\tRUN_ID\tSAMPLE_ID\tSAMPLE_NAME\n"
    "ftp://ftp.sra.ebi.ac.uk/vol1/run/ERR323/ERR3239480/NA12718.final.cram\tx\tERR3239480\tS1\tNA12718\n"
    "ftp://ftp.sra.ebi.ac.uk/vol1/run/ERR324/ERR3240114/HG00096.final.cram\ty\tERR3240114\tS2\tHG00096\n"
)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_of_samples_is_read_with_all_that_it_says(tmp_path: Path) -> None:
    # Given a table with an alias, sexes in several spellings, and addresses of three kinds
    table = written(
        tmp_path / "own.tsv",
        "sample\treads\tindex\tsex\talias\treference\tnote\n"
        "NA12878\ts3://mine/a/NA12878.bam\ts3://mine/a/NA12878.bai\tF\t1\thg38.fa\tmother\n"
        "\n"
        "NA12891\tcrams/NA12891.cram\t\t1\t\thg38.fa\n"
        "NA12892\t/data/NA12892.cram\t/data/x.crai\t\t\thg38.fa\n",
    )
    # Then each line is one sample's reads, relative addresses being relative to the table
    assert read_table(table) == [
        Reads("s3://mine/a/NA12878.bam", "s3://mine/a/NA12878.bai", "NA12878", "1", run="a", sex="female"),
        Reads(f"{tmp_path}/crams/NA12891.cram", "", "NA12891", run="crams", sex="male"),
        Reads("/data/NA12892.cram", "/data/x.crai", "NA12892", run="data", sex="unknown"),
    ]
    # and the same with commas
    commas = written(tmp_path / "own.csv", table.read_text().replace("\t", ","))
    assert read_table(commas) == read_table(table)


def test_all_faults_of_a_table_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    table = written(
        tmp_path / "own.tsv",
        "sample\treads\tsex\talias\treference\n"
        "A\t\t\t\tx.fa\n"
        "B\tb.vcf\t\t\tx.fa\n"
        "C\tc.bam\tgirl\t\tx.fa\n"
        "\td.bam\t\t1\tx.fa\n"
        "E\te.bam\t\t\tx.fa\n"
        "E\tf.bam\t\t\ty.fa\n"
        "G\te.bam\t\t\tx.fa\n",
    )
    with pytest.raises(ListingInvalid) as told:
        read_table(table)
    for fault in (
        "line 2: there is no address",
        "line 3: b.vcf is neither",
        "line 4: sex 'girl'",
        "line 5: alias 1 is of no sample",
        "line 7: sample E is on line 6 already",
        "e.bam is on line 6 already",
        "x.fa on line 6, y.fa on line 7",
    ):
        assert fault in str(told.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "it is empty"), ("sample\tcram\nA\ta.cram\n", "no column reads"), ("\xff", "no text in UTF-8")],
)
def test_what_is_no_table_of_samples_is_said(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "own.tsv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ListingInvalid, match=fault):
        read_table(tmp_path / "own.tsv")
    with pytest.raises(ListingInvalid, match="No such file"):
        read_table(tmp_path / "none.tsv")


def test_a_column_that_seems_to_be_meant_for_one_of_ours_is_not_passed_over(tmp_path: Path) -> None:
    # Given a table whose index and sex stand under other names: left unread, a man's X would be called as a diploid's
    table = written(tmp_path / "own.tsv", "sample\treads\tindx\tgender\tnote\nA\ta.bam\ta.bai\tmale\tson\n")
    # When it is read
    with pytest.raises(ListingInvalid) as refused:
        read_table(table)
    # Then both are told at once, and a column of the user's own is not
    assert "line 1: column gender is not read; if it is the sex, call it sex" in str(refused.value)
    assert "line 1: column indx is not read; if it is the index, call it index" in str(refused.value)
    assert "note" not in str(refused.value)


def test_a_sequence_index_names_crams_below_the_data_folder(tmp_path: Path) -> None:
    index = written(tmp_path / "x.sequence.index", INDEX)
    data = data_beside("s3://1000genomes/1000G_2504_high_coverage/1000G_2504_high_coverage.sequence.index")
    assert data == "s3://1000genomes/1000G_2504_high_coverage/data"
    first, second = read_sequence_index(index, data)
    assert first == Reads(
        f"{data}/ERR3239480/NA12718.final.cram",
        f"{data}/ERR3239480/NA12718.final.cram.crai",
        "NA12718",
        run="ERR3239480",
    )
    assert second.argument == (
        f"HG00096={data}/ERR3240114/HG00096.final.cram,{data}/ERR3240114/HG00096.final.cram.crai"
    )


def test_a_damaged_sequence_index_is_refused_with_its_lines(tmp_path: Path) -> None:
    cut = INDEX + "ftp://x/ERR1/A.cram\tz\n" + INDEX.splitlines()[-1] + "\nx/ERR9/B.fastq.gz\tq\tERR9\tS9\tB\n"
    with pytest.raises(ListingInvalid) as told:
        read_sequence_index(written(tmp_path / "x.sequence.index", cut), "d")
    for fault in ("line 6: it has 2 columns", "line 7: sample HG00096 is on line 5", "line 8: x/ERR9/B.fastq.gz"):
        assert fault in str(told.value)
    with pytest.raises(ListingInvalid, match="no column ENA_FILE_PATH, RUN_ID, SAMPLE_NAME"):
        read_sequence_index(written(tmp_path / "y.sequence.index", HEADER), "d")


def test_pedigrees_with_and_without_a_header_tell_the_sexes(tmp_path: Path) -> None:
    plain = written(tmp_path / "a.ped", "# family\nF1 NA12878 NA12891 NA12892 2 0\nF1\tNA12891\t0\t0\t1\t0\n\n")
    assert read_ped(plain) == {"NA12878": "female", "NA12891": "male"}
    header = "FamilyID SampleID FatherID MotherID Sex Population Superpopulation\n"
    assert read_ped(written(tmp_path / "b.ped", header + "BB01 HG01879 0 0 1 ACB AFR\nX NA1 0 0 0 ACB AFR\n")) == {
        "HG01879": "male",
        "NA1": "unknown",
    }
    with pytest.raises(ListingInvalid) as told:
        read_ped(written(tmp_path / "c.ped", "F A 0 0 1\nF A 0 0 2\nF B 0 0 3\nF C\n"))
    for fault in (
        "line 2: A is female here, male on line 1",
        "line 3: sex '3' is none",
        "line 4: it has 2 columns",
    ):
        assert fault in str(told.value)


def test_a_pedigree_completes_a_table_and_does_not_contradict_it(tmp_path: Path) -> None:
    reads = [Reads("x/A.final.cram"), Reads("b.cram", name="B", sex="male"), Reads("c.cram", name="C", sex="unknown")]
    sexes = {"A": "female", "B": "male", "C": "male", "Z": "female"}
    assert [one.sex for one in with_sexes(reads, sexes, tmp_path)] == ["female", "male", "male"]
    with pytest.raises(ListingInvalid, match="B is female there, male in the table"):
        with_sexes(reads, {"B": "female"}, tmp_path)


def test_tables_and_indexes_are_told_from_folders() -> None:
    assert all(map(is_listing, ("own.tsv", "s3://b/own.csv", "x/1000G.sequence.index")))
    assert not any(map(is_listing, ("s3://b/prefix", "crams", "crams/")))
