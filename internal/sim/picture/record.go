package main

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
)

// mostRows bounds a record: an hour of seconds.
const mostRows = 3600

// readRecord is the picture of a record of e2e/day: all of it, and its last
// morning.
func readRecord(path string) (picture, error) {
	f, err := os.Open(path)
	if err != nil {
		return picture{}, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	p, err := recorded(f)
	if err != nil {
		return picture{}, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// columns of a record: seconds since the midnight that the first day began
// with, and replicas. A line before them says how long a day is.
var columns = []string{"seconds", "demand", "ready predictive", "wanted predictive", "ready target-value", "wanted target-value"}

func recorded(in io.Reader) (picture, error) {
	text := bufio.NewReader(io.LimitReader(in, 1<<20))
	first, err := text.ReadString('\n')
	if err != nil {
		return picture{}, err
	}
	var day, load float64
	if _, err := fmt.Sscanf(first, "# day %g s, load %g s\n", &day, &load); err != nil || !(day >= 10 && day <= mostRows) {
		return picture{}, fmt.Errorf("the first line is %.40q, not # day 180 s, load 8 s", first)
	}
	rows, err := csv.NewReader(text).ReadAll()
	if err != nil {
		return picture{}, err
	}
	if len(rows) < 10 || len(rows) > mostRows || !slices.Equal(rows[0], columns) {
		return picture{}, fmt.Errorf("want the columns %q and 10 to %d rows", columns, mostRows)
	}
	at := make([][]float64, len(columns))
	for i, row := range rows[1:] {
		for c, text := range row {
			v, err := strconv.ParseFloat(text, 64)
			if err != nil || !(v >= 0 && v <= 1e6) {
				return picture{}, fmt.Errorf("line %d: %s is %q, not a number of 0 or more", i+3, columns[c], text)
			}
			at[c] = append(at[c], v)
		}
	}
	seconds := at[0]
	last := seconds[len(seconds)-1]
	if !slices.IsSorted(seconds) || last > mostRows {
		return picture{}, fmt.Errorf("want ascending seconds up to %d", mostRows)
	}
	each := func(values []float64) []float64 { return everySecond(seconds, values) }
	lines := []line{
		{"demand", "#9aa5b1", each(at[1]), 1, false},
		{"ready, predictive", "#0b6e4f", each(at[2]), 2, true},
		{"ready, target-value", "#c2542d", each(at[4]), 2, true},
	}
	begin, end := int(seconds[0]), int(last)
	clock := func(i int) string {
		minutes := int(float64(i) / day * 24 * 60)
		return fmt.Sprintf("%02d:%02d", minutes/60%24, minutes%60)
	}
	midnight := int(last/day) * int(day)
	return picture{[]panel{
		{fmt.Sprintf("Days of %.0f s: Nomad, its autoscaler and the plugins, replicas that load for %.0f s", day, load), begin, end, int(day / 6), clock},
		{"The last morning", max(midnight+int(day/4), begin), end, int(day / 12), clock},
	}, lines}, nil
}

// everySecond is the value that stood at each second, from 0 on.
func everySecond(seconds, values []float64) []float64 {
	out := make([]float64, int(seconds[len(seconds)-1])+1)
	i := 0
	for s := range out {
		for i+1 < len(seconds) && seconds[i+1] <= float64(s)+0.5 {
			i++
		}
		out[s] = values[i]
	}
	return out
}
