"""Answers over HTTP/1.1: pages for programs that scrape and probe, and for a browser.

`messages` has what a client asks for, and what it is answered: a page, or a stream of parts.
`answering` is the handler that reads the one and sends the other.

It needs h11, which is an extra: who imports this room says which one.

Never here: what any path means, and who may ask.
"""
