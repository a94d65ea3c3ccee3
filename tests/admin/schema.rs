//! Checks JSON against the schemas of openapi.json, as far as that file uses the language: a member that a schema does not
//! name is a fault too.

use serde_json::Value;

/// A document of `OpenAPI`.
pub struct Contract(pub Value);

impl Contract {
    /// The node that a node refers to, or itself.
    pub fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        let Some(reference) = node["$ref"].as_str() else {
            return node;
        };
        let path = reference.strip_prefix('#').expect("a local reference");
        let found = self.0.pointer(path);
        self.resolve(found.unwrap_or_else(|| panic!("{reference} leads nowhere")))
    }

    /// Panics unless a value fits a schema.
    #[track_caller]
    pub fn check(&self, value: &Value, schema: &Value, place: &str) {
        let mut faults = Vec::new();
        self.faults(value, schema, place, &mut faults);
        assert!(faults.is_empty(), "{faults:#?}\n{value:#}");
    }

    fn faults(&self, value: &Value, schema: &Value, place: &str, faults: &mut Vec<String>) {
        let schema = self.resolve(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            let fits = |choice: &&Value| {
                let mut faults = Vec::new();
                self.faults(value, choice, place, &mut faults);
                faults.is_empty()
            };
            match choices.iter().filter(fits).count() {
                1 => {}
                _ if value.is_null() => faults.push(format!("{place}: null")),
                // The first choice is the one that is not null.
                _ => self.faults(value, &choices[0], place, faults),
            }
            return;
        }
        let mut fault = |words: &str| faults.push(format!("{place}: {value} {words}"));
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !types.is_empty() && !types.iter().any(|kind| is_of(value, kind)) {
            return fault("has another type");
        }
        if schema["enum"]
            .as_array()
            .is_some_and(|all| !all.contains(value))
        {
            fault("is not one of the values");
        }
        if !schema["const"].is_null() && schema["const"] != *value {
            fault("is not the value");
        }
        if let (Some(number), Some(least)) = (value.as_f64(), schema["minimum"].as_f64())
            && number < least
        {
            fault("is too small");
        }
        if schema["format"] == "date-time"
            && value
                .as_str()
                .is_some_and(|text| !text.ends_with('Z') || text.len() < 20)
        {
            fault("is no time");
        }
        if let (Some(items), Some(most)) = (value.as_array(), schema["maxItems"].as_u64())
            && items.len() as u64 > most
        {
            fault("is too long");
        }
        if let Some(items) = value.as_array() {
            for (index, item) in items.iter().enumerate() {
                self.faults(item, &schema["items"], &format!("{place}[{index}]"), faults);
            }
        }
        self.members(value, schema, place, faults);
    }

    fn members(&self, value: &Value, schema: &Value, place: &str, faults: &mut Vec<String>) {
        let Some(members) = value.as_object() else {
            return;
        };
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().expect("a name");
            if !members.contains_key(name) {
                faults.push(format!("{place}: {name} is missing"));
            }
        }
        for (name, member) in members {
            let own = &schema["properties"][name];
            let others = &schema["additionalProperties"];
            if own.is_object() {
                self.faults(member, own, &format!("{place}.{name}"), faults);
            } else if others.is_object() {
                self.faults(member, others, &format!("{place}.{name}"), faults);
            } else if schema["properties"].is_object() {
                faults.push(format!("{place}: {name} is not in the contract"));
            }
        }
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other} is no type"),
    }
}
