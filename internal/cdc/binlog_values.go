package cdc

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-mysql-org/go-mysql/mysql"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
	xunicode "golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"

	"github.com/tiergate/tiergate/internal/loops"
)

// binlogColumn is what turns a column's values into text.
type binlogColumn struct {
	name     string
	kind     byte              // of the binlog
	size     int               // bytes of BINARY(n)
	unsigned bool              // of a number
	binary   bool              // bytes and not text
	decoder  encoding.Encoding // nil: UTF-8 already
	labels   []string          // of ENUM and SET
	network  string            // "uuid", "inet4", "inet6": bytes that have a text form of their own
}

// value returns what a column holds as the rest of the code takes it: numbers plain, times in ISO style and
// TIMESTAMP in UTC with +00, bytes as hex, dates that are none as NULL.
func (c *binlogColumn) value(v any) (loops.Value, error) {
	switch v := v.(type) {
	case nil:
		return loops.Value{Kind: loops.Null}, nil
	case string:
		return c.text(v)
	case []byte:
		return c.text(string(v))
	case int64:
		return c.whole(v)
	case int8:
		return c.whole(int64(v))
	case int16:
		return c.whole(int64(v))
	case int32:
		return c.whole(int64(v))
	case uint8, uint16, uint32, uint64:
		return loops.Text(fmt.Sprint(v)), nil
	case int: // YEAR
		return loops.Text(fmt.Sprintf("%04d", v)), nil
	case float32:
		return loops.Text(strconv.FormatFloat(float64(v), 'f', -1, 32)), nil
	case float64:
		return loops.Text(strconv.FormatFloat(v, 'f', -1, 64)), nil
	default:
		return loops.Value{}, fmt.Errorf("column %s holds a %T, which the binlog tells in part", c.name, v)
	}
}

// whole returns a number, or what an ENUM, a SET or a BIT means by it. A binlog as MariaDB ships it does not
// say which numbers are unsigned: the sign bit of those is a digit.
func (c *binlogColumn) whole(n int64) (loops.Value, error) {
	switch c.kind {
	case mysql.MYSQL_TYPE_ENUM:
		switch {
		case n == 0: // what an INSERT IGNORE makes of a value that is none
			return loops.Text(""), nil
		case int(n) > len(c.labels):
			return loops.Value{}, fmt.Errorf("column %s has no label %d", c.name, n)
		}
		return loops.Text(c.labels[n-1]), nil
	case mysql.MYSQL_TYPE_SET:
		var set []string
		for i, label := range c.labels {
			if uint64(n)&(1<<i) != 0 {
				set = append(set, label)
			}
		}
		return loops.Text(strings.Join(set, ",")), nil
	case mysql.MYSQL_TYPE_BIT:
		return loops.Text(strconv.FormatUint(uint64(n), 10)), nil
	}
	if n < 0 && c.unsigned {
		bits := map[byte]uint{mysql.MYSQL_TYPE_TINY: 8, mysql.MYSQL_TYPE_SHORT: 16, mysql.MYSQL_TYPE_INT24: 24, mysql.MYSQL_TYPE_LONG: 32}[c.kind]
		if bits == 0 {
			return loops.Text(strconv.FormatUint(uint64(n), 10)), nil
		}
		n += 1 << bits
	}
	return loops.Text(strconv.FormatInt(n, 10)), nil
}

func (c *binlogColumn) text(s string) (loops.Value, error) {
	switch c.kind {
	case mysql.MYSQL_TYPE_TIMESTAMP, mysql.MYSQL_TYPE_TIMESTAMP2:
		if noDate(s) {
			return loops.Value{Kind: loops.Null}, nil
		}
		return loops.Text(s + "+00"), nil
	case mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_NEWDATE, mysql.MYSQL_TYPE_DATETIME, mysql.MYSQL_TYPE_DATETIME2:
		if noDate(s) {
			return loops.Value{Kind: loops.Null}, nil
		}
		return loops.Text(s), nil
	case mysql.MYSQL_TYPE_NEWDECIMAL, mysql.MYSQL_TYPE_TIME, mysql.MYSQL_TYPE_TIME2:
		return loops.Text(s), nil
	case mysql.MYSQL_TYPE_JSON:
		var compact bytes.Buffer
		if s == "" {
			s = "null" // as the server reads a document without any content
		}
		if err := json.Compact(&compact, []byte(s)); err != nil {
			return loops.Value{}, fmt.Errorf("column %s: %w", c.name, err)
		}
		return loops.Text(compact.String()), nil
	}
	if c.binary {
		return c.bytes(s), nil
	}
	if c.decoder != nil {
		decoded, err := c.decoder.NewDecoder().String(s)
		if err != nil {
			return loops.Value{}, fmt.Errorf("column %s: %w", c.name, err)
		}
		s = decoded
	}
	return loops.Text(strings.ToValidUTF8(s, string(utf8.RuneError))), nil
}

// bytes returns hex, or the text form of an address. The binlog leaves out the zeros that a BINARY(n) ends with.
func (c *binlogColumn) bytes(s string) loops.Value {
	if n := c.size - len(s); n > 0 {
		s += strings.Repeat("\x00", n)
	}
	text := hex.EncodeToString([]byte(s))
	switch c.network {
	case "uuid":
		text = text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
	case "inet4", "inet6":
		if address, ok := netip.AddrFromSlice([]byte(s)); ok {
			text = address.String()
		}
	}
	return loops.Text(text)
}

// noDate reports whether a date has no month or no day: MySQL's zero dates.
func noDate(s string) bool {
	return len(s) >= 10 && (s[5:7] == "00" || s[8:10] == "00")
}

// encodingOf returns how a character set of the server is decoded; nil where it is UTF-8, or a part of it.
func encodingOf(charset string) (encoding.Encoding, bool) {
	switch charset {
	case "utf8mb4", "utf8mb3", "utf8", "ascii":
		return nil, true
	case "ucs2", "utf16":
		return xunicode.UTF16(xunicode.BigEndian, xunicode.IgnoreBOM), true
	case "utf16le":
		return xunicode.UTF16(xunicode.LittleEndian, xunicode.IgnoreBOM), true
	}
	e, ok := map[string]encoding.Encoding{
		"latin1": charmap.Windows1252, "latin2": charmap.ISO8859_2, "latin5": charmap.ISO8859_9, "latin7": charmap.ISO8859_13,
		"greek": charmap.ISO8859_7, "hebrew": charmap.ISO8859_8, "cp850": charmap.CodePage850, "cp852": charmap.CodePage852,
		"cp866": charmap.CodePage866, "cp1250": charmap.Windows1250, "cp1251": charmap.Windows1251, "cp1256": charmap.Windows1256,
		"cp1257": charmap.Windows1257, "koi8r": charmap.KOI8R, "koi8u": charmap.KOI8U, "tis620": charmap.Windows874,
		"macroman": charmap.Macintosh, "gbk": simplifiedchinese.GBK, "gb2312": simplifiedchinese.GBK, "gb18030": simplifiedchinese.GB18030,
		"big5": traditionalchinese.Big5, "sjis": japanese.ShiftJIS, "cp932": japanese.ShiftJIS, "ujis": japanese.EUCJP,
		"eucjpms": japanese.EUCJP, "euckr": korean.EUCKR, "utf32": utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM),
	}[charset]
	return e, ok
}

// kindsOf lists what a type of information_schema may be in the binlog: what is none of it is another column.
func kindsOf(dataType string) []byte {
	return map[string][]byte{
		"tinyint": {mysql.MYSQL_TYPE_TINY}, "smallint": {mysql.MYSQL_TYPE_SHORT}, "mediumint": {mysql.MYSQL_TYPE_INT24},
		"int": {mysql.MYSQL_TYPE_LONG}, "bigint": {mysql.MYSQL_TYPE_LONGLONG}, "decimal": {mysql.MYSQL_TYPE_NEWDECIMAL},
		"float": {mysql.MYSQL_TYPE_FLOAT}, "double": {mysql.MYSQL_TYPE_DOUBLE}, "bit": {mysql.MYSQL_TYPE_BIT}, "year": {mysql.MYSQL_TYPE_YEAR},
		"date":      {mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_NEWDATE},
		"time":      {mysql.MYSQL_TYPE_TIME, mysql.MYSQL_TYPE_TIME2},
		"datetime":  {mysql.MYSQL_TYPE_DATETIME, mysql.MYSQL_TYPE_DATETIME2},
		"timestamp": {mysql.MYSQL_TYPE_TIMESTAMP, mysql.MYSQL_TYPE_TIMESTAMP2},
		"char":      {mysql.MYSQL_TYPE_STRING}, "binary": {mysql.MYSQL_TYPE_STRING},
		"varchar": {mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING}, "varbinary": {mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING},
		"enum": {mysql.MYSQL_TYPE_ENUM}, "set": {mysql.MYSQL_TYPE_SET}, "json": {mysql.MYSQL_TYPE_JSON},
		"tinytext": {mysql.MYSQL_TYPE_BLOB}, "text": {mysql.MYSQL_TYPE_BLOB}, "mediumtext": {mysql.MYSQL_TYPE_BLOB}, "longtext": {mysql.MYSQL_TYPE_BLOB},
		"tinyblob": {mysql.MYSQL_TYPE_BLOB}, "blob": {mysql.MYSQL_TYPE_BLOB}, "mediumblob": {mysql.MYSQL_TYPE_BLOB}, "longblob": {mysql.MYSQL_TYPE_BLOB},
		"uuid": {mysql.MYSQL_TYPE_STRING}, "inet4": {mysql.MYSQL_TYPE_STRING}, "inet6": {mysql.MYSQL_TYPE_STRING},
	}[dataType]
}

// endless reports whether a row of a system-versioned table is still there: its end is the last moment that
// the server knows, in times of 32 or of 64 bits, or the last transaction.
func endless(end loops.Value) bool {
	switch end.Text {
	case "2038-01-19 03:14:07.999999+00", "2106-02-07 06:28:15.999999+00", strconv.FormatUint(math.MaxUint64, 10):
		return true
	}
	return false
}
