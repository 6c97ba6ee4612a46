//! The entity that a line belongs to: what its tags make of its id.

use std::borrow::Cow;
use std::collections::HashMap;

use sheaf_model::{Refusal, RefusalCode};

use super::super::naming::{attribute_name, external_id};
use super::super::{EventFault, RawTag, quote_line};

/// Which tags make the id of an entity; without a rule, all of them do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdRules {
    /// For every measurement of the request, before any rule of the tenant.
    pub all: Option<Vec<String>>,
    /// The tenant's, by measurement.
    pub by_measurement: HashMap<String, Vec<String>>,
}

impl IdRules {
    /// The tags that make the id of this measurement's entities, in the order in which they stand in it.
    pub(super) fn for_measurement(&self, measurement: &str) -> Option<&[String]> {
        let rule = self.all.as_ref().or_else(|| {
            // Most tenants have none; the lookup would still hash the name of every line.
            (!self.by_measurement.is_empty())
                .then(|| self.by_measurement.get(measurement))
                .flatten()
        })?;
        (!rule.is_empty()).then_some(rule.as_slice())
    }
}

/// Sorts tags as a series has them; refuses a line that names one twice.
pub(super) fn sort_tags(tags: &mut [RawTag<'_>]) -> Result<(), EventFault> {
    if !tags.is_sorted_by(|one, two| one.name < two.name) {
        tags.sort_by(|one, two| one.name.cmp(&two.name));
    }
    match tags.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => {
            let refusal = Refusal::new(RefusalCode::DuplicateKey, "duplicate tags");
            Err(EventFault::new(Some(&pair[0].name), refusal))
        }
        None => Ok(()),
    }
}

/// The id that a whole tag set makes: sorted and escaped as in line protocol, `host=a,region=eu`. A lone tag `id` is its
/// plain value, unless another tag set makes that text; no tag is `_`.
pub(super) fn series_id(tags: &[RawTag<'_>]) -> Result<String, EventFault> {
    let refused = |refusal| EventFault::new(None, refusal);
    match tags {
        [] => return Ok("_".to_owned()),
        [tag] if tag.name == "id" => {
            let id = external_id(Cow::Borrowed(&tag.value)).map_err(refused)?;
            if id != "_" && !tag.value.contains('=') {
                return Ok(id);
            }
        }
        _ => {}
    }
    let bytes: usize = tags
        .iter()
        .map(|tag| tag.name.len() + tag.value.len() + 2)
        .sum();
    let mut id = String::with_capacity(bytes);
    for tag in tags {
        if !id.is_empty() {
            id.push(',');
        }
        push_escaped(&mut id, &tag.name);
        id.push('=');
        push_escaped(&mut id, &tag.value);
    }
    normal(id).map_err(refused)
}

/// The id that some tags make: their values, escaped, in the order of the rule. Takes them out of `tags`.
pub(super) fn rule_id<'a>(
    rule: &[String],
    tags: &mut Vec<RawTag<'a>>,
) -> Result<(String, Vec<RawTag<'a>>), EventFault> {
    let mut id = String::new();
    let mut id_tags = Vec::with_capacity(rule.len());
    for name in rule {
        let Ok(place) = tags.binary_search_by(|tag| tag.name.as_ref().cmp(name)) else {
            let reason = format!("the tag {name}, which makes the id of its entity, is missing");
            let refusal = Refusal::new(RefusalCode::MissingId, reason);
            return Err(EventFault::new(None, refusal));
        };
        if !id_tags.is_empty() {
            id.push(',');
        }
        let tag = tags.remove(place);
        push_escaped(&mut id, &tag.value);
        id_tags.push(tag);
    }
    let id = normal(id).map_err(|refusal| EventFault::new(None, refusal))?;
    Ok((id, id_tags))
}

/// The id in normal form C. A combining letter right after an equals sign would become one letter with it, and the id
/// could be that of another tag set.
fn normal(id: String) -> Result<String, Refusal> {
    if id.is_ascii() {
        return external_id(Cow::Owned(id));
    }
    let normal = external_id(Cow::Borrowed(&id))?;
    let equals = |text: &str| text.bytes().filter(|byte| *byte == b'=').count();
    if equals(&normal) != equals(&id) {
        let reason = format!(
            "a combining letter follows '=': '{}'",
            quote_line(id.as_bytes())
        );
        return Err(Refusal::new(RefusalCode::InvalidText, reason));
    }
    Ok(normal)
}

fn push_escaped(out: &mut String, text: &str) {
    if !text.contains([',', '=', ' ']) {
        return out.push_str(text);
    }
    for letter in text.chars() {
        if matches!(letter, ',' | '=' | ' ') {
            out.push('\\');
        }
        out.push(letter);
    }
}

/// Checks the key of a tag. A reserved one still is part of what names the entity; the refusal is of its value alone.
pub(super) fn tag_name<'a>(
    key: Cow<'a, str>,
) -> Result<(Cow<'a, str>, Option<Refusal>), EventFault> {
    match attribute_name(key) {
        Ok(name) => Ok((name, None)),
        Err((name, refusal)) if refusal.code == RefusalCode::ReservedName => {
            Ok((name, Some(refusal)))
        }
        Err((name, refusal)) => Err(EventFault::new(Some(&name), refusal)),
    }
}
