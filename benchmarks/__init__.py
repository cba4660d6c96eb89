"""What speed is measured with: ratios within one run, never timed tests."""
