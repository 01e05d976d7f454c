"""What jobs come to: a module each, whose ``run`` makes the files of one."""
