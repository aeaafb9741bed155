"""One module a command, by the command's name, with the command as `command`. None is imported before it is called."""
