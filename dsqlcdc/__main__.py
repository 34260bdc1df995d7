"""`python -m dsqlcdc`: the command, where no console script is on the path."""

from dsqlcdc.cli import main

main()
