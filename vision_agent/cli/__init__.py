"""The command line: `vision-agent VERB ...`."""
