from commands import one_line


def test_export_reports_the_bundle_and_its_targets(misgiving, exported, tmp_path):
    run, _ = exported
    code, output, error = misgiving("export", run, "--out", tmp_path / "bundle")
    assert code == 0, error
    assert output == ""
    assert "of 3 classes that estimates its own loss" in error
    assert "at most 45 %" in error
    assert f"wrote {tmp_path / 'bundle'}" in error


def test_export_of_what_is_no_run_is_refused_in_one_line(misgiving, tmp_path):
    code, _, error = misgiving("export", tmp_path, "--out", tmp_path / "bundle")
    assert code == 1
    assert "not a run" in one_line(error)
