"""`python -m vision_agent`: the command line without its script, for environments whose scripts are not on the path."""

from vision_agent.cli.main import main

if __name__ == "__main__":
    main()
