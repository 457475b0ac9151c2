"""What experiments share: options, data, measurements, charts, the run folder and its report."""
