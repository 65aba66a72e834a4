"""What a server does lately, from statistics that are asked for again and again.

`readings` makes of an answer of the control socket what can be compared with the next one.
`history` compares them: what has happened between two, per second and in sum, and the last minutes
as points. It has the numbers of a live view, in a terminal or on a page; both show the same.

Pure: times are arguments. Never here: how statistics are asked for, and how anything is drawn.
"""
