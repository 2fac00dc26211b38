"""Published benchmarks: their files in, figures with intervals out, and the files that their servers take."""
