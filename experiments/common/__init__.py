"""What experiments share: options, the run folder, the report, charts, numbers and words."""
