package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxNodes bounds the values of one file, so that aliases and generated lists cannot fill the memory.
const maxNodes = 10_000

// nodeKind is the type of a value, whichever language it was written in.
type nodeKind int

const (
	nodeOther nodeKind = iota // what a loop never holds: undefined, a function, a date
	nodeNull
	nodeBool
	nodeNumber
	nodeText
	nodeMap
	nodeList
)

// node is one value of a loop file, with its place. TypeScript and YAML both become trees of nodes.
type node struct {
	kind    nodeKind
	at      nodePos
	text    string  // nodeText; nodeBool and nodeOther: how to call it
	number  float64 // nodeNumber
	plain   bool    // nodeText: a YAML word without quotes
	entries []nodeEntry
	items   []*node
}

// nodeEntry is one key of a mapping. Keys keep their order, and a key written twice is there twice.
type nodeEntry struct {
	key   string
	at    nodePos
	value *node
}

// nodePos is a place in a file. Line and column count from one, the column in characters.
type nodePos struct {
	file         *nodeSource
	line, column int
}

// nodeSource is the text that positions point into.
type nodeSource struct {
	name, text string
	lines      []string
}

func newNodeSource(name, text string) *nodeSource {
	return &nodeSource{name: name, text: text, lines: strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")}
}

// start is the place of whatever concerns a file as a whole.
func (s *nodeSource) start() nodePos { return nodePos{s, 1, 1} }

// fromUTF16 returns the position of a column as source maps count it: from zero, in UTF-16 units.
func (s *nodeSource) fromUTF16(line, units int) nodePos {
	column := 1
	for _, r := range s.line(line) {
		if units <= 0 {
			break
		}
		units--
		if r > 0xFFFF {
			units--
		}
		column++
	}
	return nodePos{s, line, column}
}

// fromBytes returns the position of a byte offset in a line.
func (s *nodeSource) fromBytes(line, offset int) nodePos {
	text := s.line(line)
	return nodePos{s, line, utf8.RuneCountInString(text[:max(0, min(offset, len(text)))]) + 1}
}

func (s *nodeSource) line(n int) string {
	if n < 1 || n > len(s.lines) {
		return ""
	}
	return s.lines[n-1]
}

// String prints file:line:column.
func (p nodePos) String() string { return fmt.Sprintf("%s:%d:%d", p.file.name, p.line, p.column) }

// get returns the value of a key, or nil.
func (n *node) get(key string) *node {
	for _, e := range n.entries {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

// String says what a node is, as it goes into "found …".
func (n *node) String() string {
	switch n.kind {
	case nodeNull:
		return "null"
	case nodeNumber:
		return strings.ReplaceAll(strconv.FormatFloat(n.number, 'g', -1, 64), "Inf", "Infinity")
	case nodeText:
		return "the text " + nodeQuote(n.text)
	case nodeMap:
		return "an object"
	case nodeList:
		return "a list"
	default:
		return n.text
	}
}

// nodeQuote puts text into the quotes of the two languages, short enough for a message.
func nodeQuote(text string) string {
	text, _ = nodeClip(text, 0, 60)
	return "'" + text + "'"
}

// nodeClip cuts at most width characters out of text, keeping the one at index inside, and says where
// the cut begins. What would disturb a terminal becomes a space.
func nodeClip(text string, index, width int) (cut string, start int) {
	runes := []rune(text)
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = ' '
		}
	}
	start = max(0, min(index-width/2, len(runes)-width))
	end := min(len(runes), start+width)
	cut = string(runes[start:end])
	if end < len(runes) {
		cut += "…"
	}
	return cut, start
}
