import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import org.apache.avro.Conversions;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;
import org.apache.avro.SchemaNormalization;
import org.apache.avro.data.TimeConversions;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.IndexedRecord;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.util.RandomData;

/** Java's Avro as a judge: one JSON request a line on standard input, one JSON answer a line on standard output. */
public final class AvroJudge {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final HexFormat HEX = HexFormat.of();

  public static void main(String[] arguments) throws IOException {
    BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream answers = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    for (String line = requests.readLine(); line != null; line = requests.readLine()) {
      ObjectNode answer = JSON.createObjectNode();
      try {
        answer(JSON.readTree(line), answer);
      } catch (RuntimeException | IOException error) {
        answer.put("error", error.toString());
      }
      answers.println(JSON.writeValueAsString(answer));
    }
  }

  private static void answer(JsonNode request, ObjectNode answer) throws IOException {
    switch (request.get("do").asText()) {
      case "parse" -> parse(schema(request, "schema"), answer);
      case "compare" -> compare(schema(request, "reader"), schema(request, "writer"), answer);
      case "recode" -> recode(request, answer);
      case "show" -> show(request, answer);
      case "random" -> random(request, answer);
      default -> throw new IllegalArgumentException("unknown request");
    }
  }

  /** Parsing checks names, unions and defaults. */
  private static void parse(Schema schema, ObjectNode answer) {
    answer.put("canonical", SchemaNormalization.toParsingForm(schema));
    answer.put("fingerprint", SchemaNormalization.parsingFingerprint64(schema));
    answer.put("text", schema.toString());
  }

  private static void compare(Schema reader, Schema writer, ObjectNode answer) {
    var pair = SchemaCompatibility.checkReaderWriterCompatibility(reader, writer);
    answer.put("compatible", pair.getType() == SchemaCompatibility.SchemaCompatibilityType.COMPATIBLE);
    ArrayNode rules = answer.putArray("rules");
    pair.getResult().getIncompatibilities().forEach(each -> rules.add(each.getType().name()));
  }

  /** Read bytes of one schema as another, and write them as that other one. */
  private static void recode(JsonNode request, ObjectNode answer) throws IOException {
    Schema writer = schema(request, "writer");
    Schema reader = request.has("reader") ? schema(request, "reader") : writer;
    ArrayNode recoded = answer.putArray("data");
    for (JsonNode each : request.get("data")) {
      recoded.add(encoded(reader, decoded(writer, reader, each.asText(), GenericData.get())));
    }
  }

  /** What Java programs see, logical types converted. */
  private static void show(JsonNode request, ObjectNode answer) throws IOException {
    Schema schema = schema(request, "schema");
    GenericData data = new GenericData();
    data.addLogicalTypeConversion(new Conversions.DecimalConversion());
    data.addLogicalTypeConversion(new Conversions.UUIDConversion());
    data.addLogicalTypeConversion(new TimeConversions.DateConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimeMillisConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimeMicrosConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimestampMillisConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimestampMicrosConversion());
    data.addLogicalTypeConversion(new TimeConversions.LocalTimestampMillisConversion());
    data.addLogicalTypeConversion(new TimeConversions.LocalTimestampMicrosConversion());
    IndexedRecord record = (IndexedRecord) decoded(schema, schema, request.get("data").asText(), data);
    ObjectNode shown = answer.putObject("fields");
    for (Schema.Field field : schema.getFields()) {
      shown.put(field.name(), String.valueOf(record.get(field.pos())));
    }
  }

  private static void random(JsonNode request, ObjectNode answer) throws IOException {
    Schema schema = schema(request, "schema");
    ArrayNode made = answer.putArray("data");
    for (Object each : new RandomData(schema, request.get("count").asInt(), request.get("seed").asLong(), true)) {
      made.add(encoded(schema, each));
    }
  }

  private static Schema schema(JsonNode request, String name) throws IOException {
    return new Schema.Parser().parse(JSON.writeValueAsString(request.get(name)));
  }

  private static Object decoded(Schema writer, Schema reader, String hex, GenericData data) throws IOException {
    byte[] bytes = HEX.parseHex(hex);
    var decoder = DecoderFactory.get().binaryDecoder(bytes, null);
    Object found = new GenericDatumReader<>(writer, reader, data).read(null, decoder);
    if (!decoder.isEnd()) {
      throw new IOException("bytes are left over");
    }
    return found;
  }

  private static String encoded(Schema schema, Object value) throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
    new GenericDatumWriter<>(schema).write(value, encoder);
    encoder.flush();
    return HEX.formatHex(out.toByteArray());
  }
}
