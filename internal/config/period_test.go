package config

import (
	"strings"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

func TestParsePeriod(t *testing.T) {
	for text, want := range map[string]loops.Period{
		"30d":   {Length: 720 * time.Hour},
		"12h":   {Length: 12 * time.Hour},
		"120s":  {Length: 2 * time.Minute},
		"2m":    {Length: 2 * time.Minute},
		"2w":    {Length: 336 * time.Hour},
		"007d":  {Length: 168 * time.Hour},
		"3660d": {Length: 3660 * 24 * time.Hour},
		"hour":  {Unit: loops.UnitHour, Length: time.Hour},
		"day":   {Unit: loops.UnitDay, Length: 24 * time.Hour},
		"week":  {Unit: loops.UnitWeek, Length: 168 * time.Hour},
		"month": {Unit: loops.UnitMonth},
		"year":  {Unit: loops.UnitYear},
	} {
		want.Text = text
		if got, err := ParsePeriod(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"": "not a period", "d": "not a period", "30": "not a period", "30 d": "not a period", "30D": "not a period",
		"-1d": "not a period", "+1d": "not a period", "1.5d": "not a period", "1_0d": "not a period", "3 days": "not a period", "Month": "not a period", "30é": "not a period",
		"0d": "shorter than two minutes", "1m": "shorter than two minutes", "119s": "shorter than two minutes",
		"3661d": "longer than ten years", "99999999999999999999s": "longer than ten years",
	} {
		if got, err := ParsePeriod(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %q", text, got, err, want)
		}
	}
}

// FuzzParsePeriod holds that an accepted period always moves time forward, and contains its first use.
func FuzzParsePeriod(f *testing.F) {
	for _, text := range []string{"30d", "month", "2m", "0s", "99999999999w", "-3d"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		period, err := ParsePeriod(text)
		if err != nil {
			return
		}
		window := loops.Window{Kind: loops.Anchored, Period: period}
		use := time.Date(2026, 1, 31, 23, 59, 59, 999, time.UTC)
		start, end := window.Open(use, time.Time{})
		if start.After(use) || !end.After(use) || period.Text != text {
			t.Errorf("%q: a use at %v opens [%v, %v)", text, use, start, end)
		}
	})
}
