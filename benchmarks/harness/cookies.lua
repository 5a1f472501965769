-- wrk: every request has the next of the given cookies, so that no two in flight share a session.
local ready, last = {}, 0

function init(args)
  for cookie in io.lines(args[1]) do
    ready[#ready + 1] = wrk.format("GET", nil, { ["Cookie"] = cookie })
  end
end

function request()
  last = last % #ready + 1
  return ready[last]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
