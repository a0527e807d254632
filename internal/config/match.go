package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
	"github.com/tiergate/tiergate/internal/spell"
)

// table finds the table of a role: the one that the settings name, else the one with a usual name.
func (r *recogniser) table(rule roleRule, configured string) *CatalogTable {
	if configured != "" {
		return r.configured(rule, configured)
	}
	found := r.usual(rule.tables, r.schema)
	if len(found) == 0 && r.usageSchema != "" {
		found = r.usual(rule.tables, r.usageSchema)
	}
	if len(found) == 0 {
		found = r.usual(rule.tables, "")
		if rule.absent != "" {
			// Another schema's users are another system's (auth.users is Supabase's): not without being told.
			r.missing(rule, found)
			return nil
		}
	}
	switch len(found) {
	case 0:
		r.fail("find the usage table", "set tables.usage: NAME in sidecar.yaml, or "+envName("tables.usage")+"=NAME",
			"there is no table called %s; there is %s", strings.Join(rule.tables, " or "), r.overview())
		return nil
	case 1:
		return found[0]
	default:
		r.ambiguous(rule.name, found)
		return nil
	}
}

// usual returns the tables of a schema (empty: of every schema) that have a usual name: those that are
// spelled exactly so if there are any, else those that differ in case or underscores.
func (r *recogniser) usual(names []string, schema string) []*CatalogTable {
	for _, name := range names {
		if found := r.tables(schema, func(t *CatalogTable) bool { return t.Name == name }); len(found) > 0 {
			return found
		}
	}
	return r.tables(schema, func(t *CatalogTable) bool {
		return slices.ContainsFunc(names, func(name string) bool { return folded(t.Name) == folded(name) })
	})
}

func (r *recogniser) tables(schema string, is func(*CatalogTable) bool) []*CatalogTable {
	var found []*CatalogTable
	for i := range r.catalog {
		if t := &r.catalog[i]; (schema == "" || t.Schema == schema) && is(t) {
			found = append(found, t)
		}
	}
	return found
}

// folded makes user_id, userId and userid one.
func folded(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

// configured finds a table by what the operator wrote: name or schema.name, with or without quotes.
func (r *recogniser) configured(rule roleRule, text string) *CatalogTable {
	parts := splitName(text)
	name := parts[len(parts)-1]
	schema := ""
	if len(parts) == 2 {
		schema = parts[0].text
	}
	found := r.tables(schema, func(t *CatalogTable) bool { return t.Name == name.text })
	if len(found) == 0 && !name.quoted {
		found = r.tables(schema, func(t *CatalogTable) bool { return strings.EqualFold(t.Name, name.text) })
	}
	if own := slices.DeleteFunc(slices.Clone(found), func(t *CatalogTable) bool { return t.Schema != r.schema }); len(own) > 0 {
		found = own
	}
	if len(parts) > 2 {
		found = nil
	}
	switch len(found) {
	case 0:
		var names []string
		for i := range r.catalog {
			names = append(names, r.catalog[i].Name)
		}
		r.fail(rule.name, meant(spell.Closest(name.text, names)), "there is no table %s; there is %s", text, r.overview())
		return nil
	case 1:
		return found[0]
	default:
		r.ambiguous(rule.name, found)
		return nil
	}
}

func (r *recogniser) missing(rule roleRule, elsewhere []*CatalogTable) {
	hint := "set " + rule.name
	if len(elsewhere) > 0 {
		hint = fmt.Sprintf("%s is in another schema, set %s: %s to watch it", elsewhere[0], rule.name, elsewhere[0])
	}
	r.note("no %s table: %s; %s", rule.tables[0], rule.absent, hint)
}

func (r *recogniser) ambiguous(setting string, found []*CatalogTable) {
	var names []string
	for _, t := range found {
		names = append(names, t.String())
	}
	r.fail(setting, fmt.Sprintf("set %s: %s", setting, names[0]), "several tables could be meant: %s", strings.Join(names, ", "))
}

// overview lists the tables there are, as many as fit on a line.
func (r *recogniser) overview() string {
	const most = 20
	var names []string
	for i := range r.catalog {
		t := &r.catalog[i]
		if name := t.Name; t.Schema == r.schema {
			names = append(names, name)
		} else {
			names = append(names, t.String())
		}
	}
	switch {
	case len(names) == 0:
		return "no table at all"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	default:
		return strings.Join(names, ", ")
	}
}

// column finds the column of a field: the one that the settings name, else the one with a usual name.
func (r *recogniser) column(rule roleRule, c columnRule, table *CatalogTable, configured string) (CatalogColumn, bool) {
	setting := rule.name + "." + c.field.String()
	if configured != "" {
		return r.configuredColumn(setting, c, table, configured)
	}
	var misfits []string
	for _, name := range c.names {
		found := usualColumns(table, name)
		if len(found) > 1 {
			r.fail(setting, fmt.Sprintf("set %s: %s", setting, found[0].Name), "%s has several columns that could be meant: %s and %s", table, found[0].Name, found[1].Name)
			return CatalogColumn{}, false
		}
		if len(found) == 0 {
			continue
		}
		if c.fits(found[0].Type) {
			return found[0], true
		}
		misfits = append(misfits, fmt.Sprintf("%s is %s", found[0].Name, found[0].Type))
	}
	switch problem := strings.Join(misfits, ", "); {
	case problem != "" && (c.strict || c.required):
		r.fail(setting, fmt.Sprintf("set %s to a column that is %s", setting, c.want), "%s: %s, and not %s", table, problem, c.want)
	case problem != "":
		r.note("%s: %s, and not %s: not used as %s", table, problem, c.want, setting)
	case c.required:
		hint := fmt.Sprintf("set %s to one of: %s%s", setting, table.columnNames(), rule.orNone())
		if c.field == loops.FieldAt {
			hint += "; or leave the loops' period out"
		}
		r.fail(setting, hint, "%s has no column called %s", table, strings.Join(c.names, ", "))
	}
	return CatalogColumn{}, false
}

func (r *recogniser) configuredColumn(setting string, c columnRule, table *CatalogTable, text string) (CatalogColumn, bool) {
	name := splitName(text)[0]
	if !name.quoted {
		name.text = text
	}
	column, ok := table.column(name.text)
	if !ok && !name.quoted {
		i := slices.IndexFunc(table.Columns, func(c CatalogColumn) bool { return strings.EqualFold(c.Name, name.text) })
		if ok = i >= 0; ok {
			column = table.Columns[i]
		}
	}
	switch {
	case !ok:
		var names []string
		for _, c := range table.Columns {
			names = append(names, c.Name)
		}
		r.fail(setting, meant(spell.Closest(name.text, names)), "%s has no column %s; it has %s", table, text, table.columnNames())
	case !c.fits(column.Type):
		r.fail(setting, fmt.Sprintf("name a column that is %s", c.want), "%s.%s is %s, and not %s", table, column.Name, column.Type, c.want)
		ok = false
	}
	return column, ok
}

// usualColumns returns the column that is spelled exactly so, else those that differ in case or underscores.
func usualColumns(table *CatalogTable, name string) []CatalogColumn {
	if exact, ok := table.column(name); ok {
		return []CatalogColumn{exact}
	}
	var found []CatalogColumn
	for _, c := range table.Columns {
		if folded(c.Name) == folded(name) {
			found = append(found, c)
		}
	}
	return found
}

func (t *CatalogTable) columnNames() string {
	var names []string
	for _, c := range t.Columns {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

// namePart is one part of a name as an operator wrote it.
type namePart struct {
	text   string
	quoted bool
}

// splitName reads name or schema.name, each perhaps in double quotes, inside which a dot is a letter.
func splitName(text string) []namePart {
	parts := []namePart{{}}
	inside := false
	for i := 0; i < len(text); i++ {
		last := &parts[len(parts)-1]
		switch c := text[i]; {
		case c == '"' && inside && i+1 < len(text) && text[i+1] == '"':
			last.text += `"`
			i++
		case c == '"':
			inside = !inside
			last.quoted = true
		case c == '.' && !inside:
			parts = append(parts, namePart{})
		default:
			last.text += text[i : i+1]
		}
	}
	return parts
}
