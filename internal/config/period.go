package config

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

const (
	periodDay  = 24 * time.Hour
	periodWeek = 7 * periodDay

	// minPeriod: an anchored window opens up to two minutes before the first use, which has to fall into it.
	minPeriod = 2 * time.Minute
	maxPeriod = 3660 * periodDay

	periodHint = "write '30d', '12h', '90m', '2w', 'day', 'week', 'month' or 'year'; leave it out for a lifetime limit"
)

// ParsePeriod reads a period as people write it: a number and s, m, h, d or w, or a calendar unit.
func ParsePeriod(text string) (loops.Period, error) {
	switch unit := loops.Unit(text); unit {
	case loops.UnitHour:
		return loops.Period{Text: text, Unit: unit, Length: time.Hour}, nil
	case loops.UnitDay:
		return loops.Period{Text: text, Unit: unit, Length: periodDay}, nil
	case loops.UnitWeek:
		return loops.Period{Text: text, Unit: unit, Length: periodWeek}, nil
	case loops.UnitMonth, loops.UnitYear:
		return loops.Period{Text: text, Unit: unit}, nil
	}
	length, err := parseLength(text)
	if err != nil {
		return loops.Period{}, err
	}
	return loops.Period{Text: text, Length: length}, nil
}

func parseLength(text string) (time.Duration, error) {
	if len(text) < 2 {
		return 0, fmt.Errorf("%s is not a period", nodeQuote(text))
	}
	var unit time.Duration
	switch text[len(text)-1] {
	case 's':
		unit = time.Second
	case 'm':
		unit = time.Minute
	case 'h':
		unit = time.Hour
	case 'd':
		unit = periodDay
	case 'w':
		unit = periodWeek
	}
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 63)
	switch {
	case unit == 0 || (err != nil && !errors.Is(err, strconv.ErrRange)):
		return 0, fmt.Errorf("%s is not a period", nodeQuote(text))
	case err != nil || n > uint64(maxPeriod/unit):
		return 0, fmt.Errorf("%s is longer than ten years", nodeQuote(text))
	case time.Duration(n)*unit < minPeriod:
		return 0, fmt.Errorf("%s is shorter than two minutes, the grain of a window", nodeQuote(text))
	}
	return time.Duration(n) * unit, nil
}
