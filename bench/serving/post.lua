-- Requests that a file holds, in turn: their number, then each one's length and bytes.
-- The last line printed is what came of them, JSON.
local requests, at = {}, 0

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    for index = 1, file:read("*n") do
        local length = file:read("*n")
        file:read(1)
        requests[index] = file:read(length)
    end
    file:close()
end

function request()
    at = at % #requests + 1
    return requests[at]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        '{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "not_2xx": %d, "failed": %d}',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
