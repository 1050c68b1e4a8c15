"""What the command line says: commands, options, configuration files. Imports what a command does when it is run."""
