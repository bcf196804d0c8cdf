// Package history keeps the demand of the last weeks as means of minutes: in
// memory as a [Record], and in a store as one small chunk for each day.
//
// A minute in which nothing was sampled is a gap and stays one, in memory, in
// the chunk and in the series that is read out of them. The package is pure.
package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// Schema is the first byte of a chunk in the form that this version writes.
const Schema = 1

// Minutes is the number of minutes of a day. Days are days of UTC, which all
// have so many.
const Minutes = 24 * 60

// MaxChunk bounds an encoded day, in bytes: four for every minute, the most
// that one takes, and the frame. A day that changes each minute takes some
// 3 kB, a quiet one a few hundred bytes.
const MaxChunk = 4*Minutes + 16

// The classes of error of [Decode].
var (
	// ErrSchema: the chunk is of another version of gpupool. It must not be
	// overwritten.
	ErrSchema = errors.New("another schema")
	// ErrCorrupt: the chunk is not what was written, or not for this day.
	ErrCorrupt = errors.New("corrupt")
)

// DayOf is the number of the day, since 1970, that the minute in which t lies
// belongs to. See [Day] for what a minute is.
func DayOf(t time.Time) int { day, _ := place(t); return day }

// place is the day and the minute of the day that t lies in.
func place(t time.Time) (day, minute int) {
	const ns = int64(time.Minute)
	n := t.UnixNano()
	k := n / ns
	if n%ns <= 0 { // its end belongs to a minute, its begin to the one before
		k--
	}
	day, minute = int(k/Minutes), int(k%Minutes)
	if minute < 0 {
		day, minute = day-1, minute+Minutes
	}
	return day, minute
}

// endOf is the end of a minute of a day.
func endOf(day, minute int) time.Time {
	return time.Unix(60*(int64(day)*Minutes+int64(minute)+1), 0).UTC()
}

// Date is the day as 2026-11-22.
func Date(day int) string { return endOf(day, 0).Format(time.DateOnly) }

// ParseDate is the inverse of [Date]; ok is false where s is no date.
func ParseDate(s string) (day int, ok bool) {
	t, err := time.ParseInLocation(time.DateOnly, s, time.UTC)
	if err != nil || t.Year() < 1970 {
		return 0, false
	}
	return int(t.Unix() / 86400), true
}

// Day is the means of the minutes of one day. Minute k is what was sampled
// after k and until k+1 minutes past midnight UTC, its end included, and is
// told as of its end: the buckets of demand.Series.Resample. The zero value is
// a day of gaps.
//
// A value keeps its first 16 binary digits: whole numbers to 65,536 are exact,
// and others are off by less than 0.002 %.
type Day struct {
	codes [Minutes]uint32 // 0 for a gap, otherwise 1 + the code of the value
}

// dropped is how many of the 23 binary digits of a float32's fraction are not
// kept. The bits of non-negative floats are in the order of their values, so
// that what is left of them is a scale on which differences are small.
const dropped = 8

const maxCode = 1 + math.MaxInt32>>dropped // of the largest float32's kin, which is checked below

// Set puts the mean of a minute. Values that cannot be demand, negative ones,
// NaN and more than 1e30, are refused.
func (d *Day) Set(minute int, v float64) bool {
	if minute < 0 || minute >= Minutes || !(v >= 0 && v <= 1e30) {
		return false
	}
	bits := math.Float32bits(float32(v))
	d.codes[minute] = 1 + (bits+1<<(dropped-1))>>dropped // rounded
	return true
}

// At returns the mean of a minute; ok is false for a gap.
func (d *Day) At(minute int) (v float64, ok bool) {
	if minute < 0 || minute >= Minutes || d.codes[minute] == 0 {
		return 0, false
	}
	return value(d.codes[minute]), true
}

func value(code uint32) float64 {
	return float64(math.Float32frombits((code - 1) << dropped))
}

// Len is the number of minutes that are there.
func (d *Day) Len() int {
	n := 0
	for _, c := range d.codes {
		if c != 0 {
			n++
		}
	}
	return n
}

// Fill puts the minutes of other where d has gaps, and returns how many that
// were. Of two means of one minute the first to be there stays, so that
// writers who fill each other's gaps end with the same day.
func (d *Day) Fill(other *Day) int {
	n := 0
	for i, c := range other.codes {
		if c != 0 && d.codes[i] == 0 {
			d.codes[i] = c
			n++
		}
	}
	return n
}

// A chunk is the schema byte, the number of the day, the minutes, and the
// CRC-32 (IEEE) of all that, little-endian. Number and minutes are unsigned
// varints. A token of the minutes has its kind in the lowest two bits:
//
//	1  a gap of n minutes
//	2  the value before, n times more
//	3  one value: the difference of its code to the one before, zigzag
//
// Minutes past the last token are gaps.
const (
	tokenGap = 1 + iota
	tokenSame
	tokenStep
)

// Encode renders the day as a chunk.
func (d *Day) Encode(day int) []byte {
	b := append(make([]byte, 0, 1<<10), Schema)
	b = binary.AppendUvarint(b, uint64(uint32(day)))
	last := Minutes
	for last > 0 && d.codes[last-1] == 0 {
		last--
	}
	before := int64(0)
	for i := 0; i < last; {
		run := i + 1
		for run < last && d.codes[run] == d.codes[i] {
			run++
		}
		code, n := int64(d.codes[i]), uint64(run-i)
		switch {
		case code == 0:
			b = binary.AppendUvarint(b, n<<2|tokenGap)
		case code == before:
			b = binary.AppendUvarint(b, n<<2|tokenSame)
		default:
			step := code - before
			b = binary.AppendUvarint(b, uint64(step<<1^step>>63)<<2|tokenStep)
			before, run = code, i+1
		}
		i = run
	}
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// Decode reads the chunk of a day. The error wraps [ErrSchema] or
// [ErrCorrupt].
func Decode(chunk []byte, day int) (*Day, error) {
	switch {
	case len(chunk) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrCorrupt)
	case chunk[0] != Schema:
		return nil, fmt.Errorf("%w: %d, this version of gpupool reads %d", ErrSchema, chunk[0], Schema)
	case len(chunk) > MaxChunk:
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrCorrupt, len(chunk), MaxChunk)
	case len(chunk) < 6:
		return nil, fmt.Errorf("%w: %d bytes are no chunk", ErrCorrupt, len(chunk))
	}
	body, sum := chunk[:len(chunk)-4], binary.LittleEndian.Uint32(chunk[len(chunk)-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return nil, fmt.Errorf("%w: the checksum does not match", ErrCorrupt)
	}
	number, n := binary.Uvarint(body[1:])
	if n <= 0 {
		return nil, fmt.Errorf("%w: it ends within the day's number", ErrCorrupt)
	}
	if number != uint64(uint32(day)) {
		return nil, fmt.Errorf("%w: it is of another day", ErrCorrupt)
	}
	d := new(Day)
	if err := d.decode(body[1+n:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return d, nil
}

func (d *Day) decode(tokens []byte) error {
	before, i := int64(0), 0
	for len(tokens) > 0 {
		token, n := binary.Uvarint(tokens)
		if n <= 0 {
			return errors.New("it ends within a minute")
		}
		tokens = tokens[n:]
		count, fill := uint64(1), uint32(0)
		switch token & 3 {
		case tokenGap:
			count = token >> 2
		case tokenSame:
			count, fill = token>>2, uint32(before)
		case tokenStep:
			zigzag := token >> 2
			before += int64(zigzag>>1) ^ -int64(zigzag&1)
			if before <= 0 || before > maxCode || math.IsInf(value(uint32(before)), 0) || math.IsNaN(value(uint32(before))) {
				return fmt.Errorf("minute %d is no number", i)
			}
			fill = uint32(before)
		default:
			return fmt.Errorf("minute %d is of an unknown kind", i)
		}
		if count == 0 || count > uint64(Minutes-i) {
			return fmt.Errorf("more than %d minutes", Minutes)
		}
		for range count {
			d.codes[i] = fill
			i++
		}
	}
	return nil
}
