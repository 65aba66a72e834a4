"""The commands of ``python -m trio_wsk``: what they take, what they do, and what they print.

`serve` has ``serve`` and ``check``, and `beside` what a server has beside it; `ctl` has ``ctl``,
`doctor` has ``doctor``, `top` has ``top``: `watching` asks for what that shows, and `drawing` draws
it. Each command says what it takes to the parser, and is given what was typed.

Never here: what a server is, and what a configuration means.
"""
