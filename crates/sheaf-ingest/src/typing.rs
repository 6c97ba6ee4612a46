//! Decoded events to typed ones: names looked up in the catalogue, values checked against their types. Pure.
//!
//! One pass decides everything: what is typed, what is refused, and which attributes would have to be created first.
//! If any would, the caller creates them and runs the pass again; if the request wants all or nothing and anything is
//! refused, nothing has been created yet.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use sheaf_model::{
    AttributeId, AttributeType, Attrs, Cell, Event, Limits, Op, Refusal, RefusalCode, Tags,
    Timestamp, Value,
};
use sheaf_store::catalogue::{Attribute, Catalogue, NewAttribute, Temperature};
use sheaf_store::rejections::{NewRejection, Reading, Rest};

use crate::decode::{Decoded, RawCell, RawEvent, RawTag, RawTags, RawValue};
use crate::schema::Schemas;

/// How many attributes of a tenant may be in the indexed part. Each costs an index entry at every change of a value;
/// more would make every update of the document slower for all.
pub const HOT_ATTRIBUTES_MAX: usize = 100;

/// Where the values of a new attribute go when no pin says otherwise.
pub fn default_temperature(kind: AttributeType, hot_count: usize) -> Temperature {
    if kind.is_hot_by_default() && hot_count < HOT_ATTRIBUTES_MAX {
        Temperature::Hot
    } else {
        Temperature::Cold
    }
}

/// A typed event whose entity is still a name.
#[derive(Debug, Clone)]
pub(crate) struct TypedEvent {
    pub(crate) index: u32,
    /// The bytes it was read from, for a refusal that comes later.
    pub(crate) raw: Bytes,
    pub(crate) entity_type: String,
    pub(crate) external_id: String,
    pub(crate) event: Event,
}

/// What one pass comes to.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    pub(crate) events: Vec<TypedEvent>,
    /// How they were read.
    pub(crate) reading: Reading,
    /// In order of event.
    pub(crate) refusals: Vec<NewRejection>,
    /// Attributes that must be created before the events are complete.
    pub(crate) missing: Vec<NewAttribute>,
    /// Attributes that must be marked before the events are stored: lines have them as tags beside an id.
    pub(crate) unmarked: BTreeSet<AttributeId>,
    /// Events of which nothing is left.
    pub(crate) refused_events: u32,
    /// How many times lost digits below a microsecond.
    pub(crate) times_cut: u64,
}

/// What a pass is measured by.
pub(crate) struct Rules<'a> {
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) schemas: &'a Schemas,
    pub(crate) limits: &'a Limits,
    pub(crate) now: Timestamp,
}

/// Types a decoded body. `body` is what it was decoded from.
pub(crate) fn type_body(decoded: Decoded<'_>, body: &Bytes, rules: &Rules<'_>) -> Typed {
    let reading = decoded.reading;
    let mut pass = Pass::new(rules);
    // Both are in order of index, except that single values of an event may be refused.
    let survives = |index: &u32| {
        let place = decoded
            .events
            .binary_search_by_key(index, |event| event.index);
        place.is_ok()
    };
    let refused = decoded.refusals.iter().map(|refusal| refusal.index);
    let refused_whole: HashSet<u32> = refused.filter(|index| !survives(index)).collect();
    pass.typed.refused_events = u32::try_from(refused_whole.len()).unwrap_or(u32::MAX);
    for refusal in decoded.refusals {
        pass.typed.refusals.push(NewRejection {
            event_index: i32::try_from(refusal.index).unwrap_or(i32::MAX),
            entity_type: refusal.entity_type,
            field: refusal.field,
            code: refusal.refusal.code,
            reason: refusal.refusal.reason,
            raw: body.slice_ref(refusal.raw),
            reading: reading.clone(),
            rest: None,
        });
    }
    for event in decoded.events {
        pass.event(event, body, &reading);
    }
    let mut typed = pass.typed;
    typed.reading = reading;
    // Stable: refusals of one event stay in the order in which they were found.
    typed.refusals.sort_by_key(|refusal| refusal.event_index);
    name_rests(&mut typed.refusals, &typed.events);
    typed
}

/// Says of refused values where the rest of their event will be. Both are in order of event.
fn name_rests(refusals: &mut [NewRejection], events: &[TypedEvent]) {
    let mut events = events.iter().peekable();
    for refusal in refusals {
        let index = u32::try_from(refusal.event_index).unwrap_or(u32::MAX);
        while events.next_if(|event| event.index < index).is_some() {}
        refusal.rest = events
            .peek()
            .filter(|event| event.index == index)
            .map(|event| Rest {
                external_id: event.external_id.clone(),
                observed_at: event.event.observed_at,
            });
    }
}

/// Types the cells of an edit. Faults come as (name, refusal).
pub(crate) fn type_cells(
    cells: Vec<RawCell<'_>>,
    rules: &Rules<'_>,
) -> (Attrs, Vec<NewAttribute>, Vec<(String, Refusal)>) {
    let mut pass = Pass::new(rules);
    let mut attrs = Vec::with_capacity(cells.len());
    let mut faults = Vec::new();
    for (place, RawCell { name, value }) in cells.into_iter().enumerate() {
        match pass.cell(place, &name, value) {
            Ok(Some(typed)) => attrs.push(typed),
            Ok(None) => {}
            Err(refusal) => faults.push((name.into_owned(), refusal)),
        }
    }
    (Attrs::from_distinct(attrs), pass.typed.missing, faults)
}

/// Why an event may not be observed when it says.
pub(crate) fn time_refusal(
    time: Timestamp,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Option<Refusal> {
    let policy = &catalogue.tenant.policy;
    let latest = now.saturating_add_micros(policy.observed_at_ahead_max_micros);
    if (policy.observed_at_min..=latest).contains(&time) {
        return None;
    }
    let reason = format!(
        "observed_at {time} is outside {} to {latest}, which the tenant accepts",
        policy.observed_at_min
    );
    Some(Refusal::new(RefusalCode::TimeOutOfRange, reason))
}

struct Pass<'r, 'd> {
    rules: &'r Rules<'r>,
    typed: Typed,
    /// Types of attributes that would be created, by name.
    created: HashMap<String, AttributeType>,
    hot_count: usize,
    /// Attributes in the order in which the last event named them: the next names mostly the same.
    recent: Vec<&'r Arc<Attribute>>,
    /// What the tags of each series are that further events have, so that they are typed once; the series is held so that
    /// no other takes its place.
    series: HashMap<*const RawTags<'d>, (Rc<RawTags<'d>>, Arc<Attrs>)>,
}

impl<'r, 'd> Pass<'r, 'd> {
    fn new(rules: &'r Rules<'r>) -> Pass<'r, 'd> {
        Pass {
            rules,
            typed: Typed::default(),
            created: HashMap::new(),
            hot_count: rules.catalogue.hot_count(),
            recent: Vec::new(),
            series: HashMap::new(),
        }
    }

    /// The attribute of a name that stands at `place` of its event.
    fn known(&mut self, place: usize, name: &str) -> Option<&'r Arc<Attribute>> {
        if let Some(recent) = self.recent.get(place).filter(|recent| recent.name == name) {
            return Some(recent);
        }
        let found = self.rules.catalogue.by_name(name)?;
        if place < self.recent.len() {
            self.recent[place] = found;
        } else if place == self.recent.len() {
            self.recent.push(found);
        }
        Some(found)
    }

    fn event(&mut self, raw: RawEvent<'d>, body: &Bytes, reading: &Reading) {
        self.typed.times_cut += u64::from(raw.time_cut);
        let refuse = |field: Option<String>, refusal: Refusal| NewRejection {
            event_index: i32::try_from(raw.index).unwrap_or(i32::MAX),
            entity_type: Some(raw.entity_type.as_str().to_owned()),
            field,
            code: refusal.code,
            reason: refusal.reason,
            raw: body.slice_ref(raw.raw),
            reading: reading.clone(),
            rest: None,
        };
        let known_series = self.known_series(&raw.tags);
        let out_of_range = raw
            .observed_at
            .and_then(|time| time_refusal(time, self.rules.catalogue, self.rules.now));
        if let Some(refusal) = out_of_range {
            self.typed
                .refusals
                .push(refuse(Some("observed_at".to_owned()), refusal));
            self.typed.refused_events += 1;
            return;
        }
        let (mut kept, mut refused) = (Vec::with_capacity(raw.cells.len()), false);
        for (place, RawCell { name, value }) in raw.cells.into_iter().enumerate() {
            match self.cell(place, &name, value) {
                Ok(typed) => kept.extend(typed),
                Err(refusal) => {
                    refused = true;
                    self.typed
                        .refusals
                        .push(refuse(Some(name.into_owned()), refusal));
                }
            }
        }
        if refused && kept.is_empty() {
            self.typed.refused_events += 1;
            return;
        }
        let is_known = known_series.is_some();
        let refusals_before = self.typed.refusals.len();
        let mut tags_of = |tags: &[RawTag<'_>]| {
            let mut typed = Vec::with_capacity(tags.len());
            for tag in tags {
                match self.tag(tag) {
                    Ok(cell) => typed.extend(cell),
                    Err(refusal) => self
                        .typed
                        .refusals
                        .push(refuse(Some(tag.name.to_string()), refusal)),
                }
            }
            typed
        };
        let tags = match &*raw.tags {
            RawTags::None => Tags::None,
            RawTags::Series(tags) => Tags::Series(match known_series {
                Some(attrs) => attrs,
                None => Arc::new(Attrs::from_distinct(tags_of(tags))),
            }),
            RawTags::Beside { id, others } => {
                kept.extend(tags_of(id));
                let others = tags_of(others);
                let named: Vec<AttributeId> = others.iter().map(|(id, _)| *id).collect();
                let marked = self.rules.catalogue.series_tags();
                let unmarked = named.iter().filter(|id| !marked.contains(id));
                self.typed.unmarked.extend(unmarked);
                kept.extend(others);
                Tags::Beside(named)
            }
        };
        // A tag that is refused is refused with each line.
        if let Tags::Series(attrs) = &tags
            && self.typed.refusals.len() == refusals_before
            && !is_known
            && Rc::strong_count(&raw.tags) > 1
        {
            let held = (Rc::clone(&raw.tags), Arc::clone(attrs));
            self.series.insert(Rc::as_ptr(&raw.tags), held);
        }
        self.typed.events.push(TypedEvent {
            index: raw.index,
            raw: body.slice_ref(raw.raw),
            entity_type: raw.entity_type.into_string(),
            external_id: raw.external_id,
            event: Event {
                observed_at: raw.observed_at,
                op: Op::Patch,
                attrs: Attrs::from_distinct(kept),
                tags,
            },
        });
    }

    /// What the tags of an event's series are, if an earlier event had it. Forgotten with its last event, so that what is
    /// held is no more than what the body's reader knew at one time.
    fn known_series(&mut self, tags: &Rc<RawTags<'d>>) -> Option<Arc<Attrs>> {
        let series = Rc::as_ptr(tags);
        let known = self.series.get(&series)?;
        let attrs = Arc::clone(&known.1);
        // The event's and the one held here.
        if Rc::strong_count(tags) == 2 {
            self.series.remove(&series);
        }
        Some(attrs)
    }

    /// The typed cell; absent if its attribute has to be created first, or if it removes what was never there. `place` is
    /// the cell's place in its event.
    fn cell(
        &mut self,
        place: usize,
        name: &str,
        value: RawValue<'_>,
    ) -> Result<Option<(AttributeId, Cell)>, Refusal> {
        let known = self.known(place, name);
        let json = match value {
            RawValue::Typed(value) => return self.typed_value(known, name, value),
            RawValue::Json("null") => {
                return Ok(known.map(|attribute| (attribute.id, Cell::Removed)));
            }
            RawValue::Json(json) => json,
        };
        let Some(attribute) = known else {
            let kind = match self.created.get(name) {
                Some(kind) => *kind,
                None => AttributeType::infer(json).ok_or_else(|| {
                    Refusal::new(
                        RefusalCode::MalformedJson,
                        format!("attribute {name}: not valid JSON"),
                    )
                })?,
            };
            // A value that its own type cannot hold must not decide the type.
            Value::from_json(kind, name, json, self.rules.limits)?;
            return self.unknown(name, kind).map(|()| None);
        };
        let value = Value::from_json(attribute.kind, &attribute.name, json, self.rules.limits)?;
        self.rules.schemas.admit(attribute, &value)?;
        Ok(Some((attribute.id, Cell::Value(value))))
    }

    fn tag(&mut self, tag: &RawTag<'_>) -> Result<Option<(AttributeId, Cell)>, Refusal> {
        let known = self.rules.catalogue.by_name(&tag.name);
        self.typed_value(known, &tag.name, Value::Text(tag.value.to_string()))
    }

    fn typed_value(
        &mut self,
        known: Option<&Arc<Attribute>>,
        name: &str,
        value: Value,
    ) -> Result<Option<(AttributeId, Cell)>, Refusal> {
        match known {
            None => match self.created.get(name) {
                Some(kind) if *kind != value.kind() => {
                    Err(Value::mismatch(name, *kind, value.kind().as_str()))
                }
                Some(_) | None => self.unknown(name, value.kind()).map(|()| None),
            },
            Some(attribute) => {
                let value = fit(attribute, value)?;
                self.rules.schemas.admit(attribute, &value)?;
                Ok(Some((attribute.id, Cell::Value(value))))
            }
        }
    }

    /// Notes an attribute that would be created, or refuses it by the tenant's policy.
    fn unknown(&mut self, name: &str, kind: AttributeType) -> Result<(), Refusal> {
        if !self
            .rules
            .catalogue
            .tenant
            .policy
            .creates_unknown_attributes
        {
            return Err(Refusal::new(
                RefusalCode::UnknownAttribute,
                format!("unknown attribute {name:?}"),
            ));
        }
        if self.created.contains_key(name) {
            return Ok(());
        }
        if self.rules.catalogue.attributes().len() + self.created.len()
            >= self.rules.limits.tenant_attributes_max
        {
            let reason = format!(
                "a tenant has at most {} attributes",
                self.rules.limits.tenant_attributes_max
            );
            return Err(Refusal::new(RefusalCode::QuotaExceeded, reason));
        }
        let temperature = default_temperature(kind, self.hot_count);
        self.hot_count += usize::from(temperature.writes_hot());
        self.created.insert(name.to_owned(), kind);
        self.typed.missing.push(NewAttribute {
            name: name.to_owned(),
            kind,
            temperature,
        });
        Ok(())
    }
}

/// A value whose format says its type, as the type that its attribute has. Numbers change only where nothing is lost.
fn fit(attribute: &Attribute, value: Value) -> Result<Value, Refusal> {
    if attribute.kind == value.kind() {
        return Ok(value);
    }
    let is_number = matches!(value, Value::Int(_) | Value::Float(_));
    let takes_number = matches!(
        attribute.kind,
        AttributeType::Int | AttributeType::Float | AttributeType::Decimal
    );
    if is_number && takes_number {
        let mut json = String::new();
        value.write_stored(&mut json);
        return Value::from_json(attribute.kind, &attribute.name, &json, &Limits::DEFAULT);
    }
    Err(Value::mismatch(
        &attribute.name,
        attribute.kind,
        value.kind().as_str(),
    ))
}
