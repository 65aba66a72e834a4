"""What a server is started with, from outside of the program: read, checked, and made ready.

`sources` reads what is given on the command line, in the environment and in a file, each value with
the place where it stands. `options` is the table of what may be given, and what is wrong with a
value; `toml_lines` finds the line of a mistake. `configuration` puts the sources together, the
stronger before the weaker, and tells of all mistakes at once. `targets` finds what a
``package.module:name`` stands for, and `ready` makes of a configuration what `serve` takes.
`operators` makes of the same what steers and counts it, and `page` is about the page for them.

Never here: sockets, processes, and what is printed.
"""
