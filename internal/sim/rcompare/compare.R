# Forecasts of R's forecast package at the origins that it is given.
#
#   Rscript compare.R SERIES ORIGINS OUT
#
# SERIES has one value a minute, ORIGINS the number of minutes known at each
# origin, a line each. OUT becomes lines: method,origin,horizon,seconds and the
# quantiles 0.05, 0.5, 0.8 and 0.95 of the mean of the two minutes that end at
# the horizon. Batch methods are fitted anew at each origin: to a day of
# minutes without season (auto.arima, ets), to all that is known, at most two
# weeks, with daily and weekly seasons (mstl).
suppressPackageStartupMessages(library(forecast))
args <- commandArgs(trailingOnly = TRUE)
x <- scan(args[1], quiet = TRUE)
origins <- scan(args[2], quiet = TRUE)
horizons <- c(5, 15, 30)
pairs <- function(v) { n <- length(v); (v[-1] + v[-n]) / 2 }
out <- file(args[3], "w")
say <- function(method, o, f, seconds) {
  for (h in horizons) {
    q <- pmax(c(f$lower[h, 2], f$mean[h], f$upper[h, 1], f$upper[h, 2]), 0)
    cat(method, o, h, round(seconds, 4), paste(round(q, 4), collapse = ","), sep = ",", file = out)
    cat("\n", file = out)
  }
}
run <- function(method, o, make) {
  t <- system.time(f <- try(forecast(make(), h = max(horizons), level = c(60, 90)), silent = TRUE))
  if (!inherits(f, "try-error")) say(method, o, f, t[["user.self"]] + t[["sys.self"]])
}
for (o in origins) {
  known <- pairs(x[1:o])
  day <- tail(known, 1440)
  long <- tail(known, 20160)
  season <- if (length(long) > 2 * 10080) c(1440, 10080) else 1440
  run("persistence", o, function() naive(day, h = max(horizons), level = c(60, 90)))
  run("seasonal naive", o, function() snaive(ts(tail(known, 4320), frequency = 1440), h = max(horizons), level = c(60, 90)))
  run("auto.arima", o, function() auto.arima(day, seasonal = FALSE))
  run("ets", o, function() ets(day))
  run("mstl", o, function() mstl(msts(long, seasonal.periods = season)))
}
close(out)
