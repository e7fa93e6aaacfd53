"""Programs of other projects that run alone, beside ours."""
