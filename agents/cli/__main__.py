"""`python -m agents.cli`, as the command `faultline`."""

from agents.cli.main import main

main()
