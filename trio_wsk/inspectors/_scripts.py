"""What a Redis server runs: each script decides about many keys, by the clock of that server.

A script begins with `CLOCK`, which says what time it is, and has one function of each key then.
One key is one source of one rule, and no key needs to know another.
"""

from __future__ import annotations

import hashlib
from typing import Final, final

__all__ = ["CLOCK", "PENALTIES", "PLACES", "RATES", "Script"]

CLOCK: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
"""
"""The time in seconds, with fractions."""

PLACES: Final = """
-- ARGV: who asks, its lease in seconds, how many there may be; for each key: how many places who
-- asks holds, and how many more it wants. Answers how many of those it has got. A key is a hash:
-- by process how many places it holds, and until when that is so.
local who, lease, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local milliseconds = math.max(1, math.ceil(lease * 1000))

local function others(key)
  local held, fields = 0, redis.call('HGETALL', key)
  for index = 1, #fields, 2 do
    local count, ends = string.match(fields[index + 1], '^(%d+) (%S+)$')
    if fields[index] ~= who then
      if tonumber(ends) > now then
        held = held + tonumber(count)
      else
        redis.call('HDEL', key, fields[index])
      end
    end
  end
  return held
end

local answers = {}
for index, key in ipairs(KEYS) do
  local holds, wants = tonumber(ARGV[2 + 2 * index]), tonumber(ARGV[3 + 2 * index])
  local granted = math.max(0, math.min(wants, most - holds - others(key)))
  if holds + granted > 0 then
    redis.call('HSET', key, who, string.format('%d %.6f', holds + granted, now + lease))
    redis.call('PEXPIRE', key, milliseconds)
  else
    redis.call('HDEL', key, who)
  end
  answers[index] = granted
end
return answers
"""
"""Who is told what it holds each time needs no memory of what it was told before: a lease that was
lost, with the server or on the way, is there again with the next word about it."""

RATES: Final = """
-- ARGV: seconds for each, seconds that may be ahead; for each key: how many more are wanted.
-- Answers how many of those are within the rate. A key is when it will have been used up.
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local answers = {}
for index, key in ipairs(KEYS) do
  local used_up = tonumber(redis.call('GET', key) or '') or -math.huge
  local wanted, granted = tonumber(ARGV[2 + index]), 0
  while granted < wanted do
    local start = math.max(used_up, now)
    if start - now > tolerance + interval * 1e-6 then
      break
    end
    used_up = start + interval
    granted = granted + 1
  end
  if granted > 0 then
    local milliseconds = math.min(math.max(1, math.ceil((used_up - now) * 1000)), 1e15)
    redis.call('SET', key, string.format('%.17g', used_up), 'PX', string.format('%d', milliseconds))
  end
  answers[index] = granted
end
return answers
"""
"""`Rate.after`, as often as there are arrivals."""

PENALTIES: Final = """
-- ARGV: the most seconds; for each key: whether all are forgiven, how many there are at least, and
-- how many are added. Answers how many there are then. A key is when the penalty will be over.
local most = tonumber(ARGV[1])
local answers = {}
for index, key in ipairs(KEYS) do
  local forgiven = ARGV[3 * index - 1] == '1'
  local least, added = tonumber(ARGV[3 * index]), tonumber(ARGV[1 + 3 * index])
  local over = now
  if not forgiven then
    over = math.max(now, tonumber(redis.call('GET', key) or '0'))
  end
  over = math.min(math.max(over, now + least) + added, now + most)
  if over <= now then
    redis.call('DEL', key)
  elseif least > 0 or added > 0 then
    local milliseconds = math.max(1, math.ceil((over - now) * 1000))
    redis.call('SET', key, string.format('%.17g', over), 'PX', string.format('%d', milliseconds))
  end
  answers[index] = string.format('%.17g', math.max(0, over - now))
end
return answers
"""
"""`Penalties.add` and `Penalties.forgive`, in the order in which they would have been called."""


@final
class Script:
    """A script as servers know it: by its text once, and by the digest of that from then on."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        """The text."""
        self.digest: Final = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        """What EVALSHA takes."""
