"""Every file that a run, an evaluation or a reproduction writes: one writer and one reader each.

`schema` has the type of every row and document, `formats` writes and reads them as CSV and JSON.

| file | content |
|---|---|
| a run's `history.csv` | `EpochRecord` |
| `measurements.csv`, `decisions.csv`, `subgroups.csv`, `skipped.csv` of `evaluate` |
  `Measurement`, `LabelledDecision`, `Subgroup`, `SkippedImage` |
| a unit's `unit.json`, `timing.json` | its record as an object, `UnitTiming` |
| a unit's `results.csv`, `odin_grid.csv`, `cases.csv`, `reliability.csv` |
  `Result`, `OdinPoint`, `CaseRow`, `ReliabilityBin` |
| a reproduction's `results.csv`, `intervals.csv`, `histories.csv` |
  `Result`, `ResultInterval`, `HistoryRow` |
| its `confusions.csv`, `reliability.csv`, `risk_coverage.csv` |
  `Confusion`, `ReliabilityRow`, `RiskPoint`; `reproduction.aggregate` writes all six |
| its `settings.json`, `datasets.json`, `manifests/*.csv` |
  `Settings`, `SetFacts` by name, `ManifestImage` |
"""
