#include "ptx/parser/kernel_parser.h"

#include <algorithm>
#include <string>

#include "ptx/error.h"
#include "ptx/parser/declaration.h"
#include "ptx/parser/register_reuse.h"

namespace ptx {
namespace {

void place_dynamic_shared(Operand& operand, std::uint64_t base) {
  const bool is_address = operand.kind == Operand::Kind::kAddress || operand.kind == Operand::Kind::kImmediate;
  const std::uint64_t distance = operand.value - kUnplaced + (1ULL << 32);
  if (is_address && distance < 1ULL << 33) operand.value += base - kUnplaced;
  for (Operand& element : operand.elements) place_dynamic_shared(element, base);
}

}  // namespace

KernelParser::KernelParser(TextCursor& cursor, const Scope& module_scope, std::size_t shared_bytes)
    : cursor_(cursor), module_scope_(module_scope) {
  kernel_.shared_bytes = shared_bytes;
}

Kernel KernelParser::parse() {
  scopes_.emplace_back();
  kernel_.name = cursor_.word();
  if (kernel_.name.empty()) cursor_.unexpected("the name of a kernel");
  if (cursor_.accept('(')) parameters();
  performance_directives();
  body();
  const std::size_t base = round_up(kernel_.shared_bytes, 1024);
  for (const std::size_t index : dynamic_shared_) {
    for (Operand& operand : kernel_.code[index].operands) place_dynamic_shared(operand, base);
  }
  kernel_.local_bytes = round_up(kernel_.local_bytes, 16);
  reuse_registers(kernel_);
  return std::move(kernel_);
}

void KernelParser::parameters() {
  while (!cursor_.accept(')')) {
    cursor_.expect('.');
    if (cursor_.word() != "param") cursor_.unexpected(".param before");
    const Declaration declared = read_declaration(cursor_);
    const std::size_t offset = round_up(kernel_.parameter_bytes, declared.alignment);
    kernel_.parameters.push_back({offset, declared.num_bytes});
    kernel_.parameter_bytes = offset + declared.num_bytes;
    scopes_.back().variables[declared.name] = {Space::kParameter, offset};
    cursor_.accept(',');
  }
}

void KernelParser::performance_directives() {
  while (cursor_.accept('.')) {
    const std::string_view name = cursor_.word();
    if (name == "pragma") {
      cursor_.skip_past(';');
      continue;
    }
    if (name != "maxntid" && name != "reqntid" && name != "minnctapersm" && name != "maxnreg") {
      fail("PTX line ", cursor_.line(), ": the directive .", name, " of a kernel is not implemented");
    }
    std::int64_t product = cursor_.integer();
    while (cursor_.accept(',')) product *= cursor_.integer();
    if (name == "maxntid" || name == "reqntid") kernel_.max_threads = static_cast<int>(product);
  }
}

void KernelParser::body() {
  cursor_.expect('{');
  const std::size_t outside = scopes_.size() - 1;
  while (scopes_.size() > outside) {
    if (cursor_.at_end()) cursor_.unexpected("} of the kernel");
    statement();
  }
  Instruction end;  // of kernels that do not end in ret
  end.op = "ret";
  end.line = cursor_.line();
  choose_handler(end);
  kernel_.code.push_back(std::move(end));
}

void KernelParser::statement() {
  if (cursor_.accept('{')) {
    scopes_.emplace_back();
  } else if (cursor_.accept('}')) {
    close_scope();
  } else if (cursor_.accept('.')) {
    directive();
  } else if (!cursor_.accept(';')) {
    instruction();
  }
}

void KernelParser::close_scope() {
  Scope& scope = scopes_.back();
  for (Scope::LabelUse& use : scope.label_uses) {
    if (const auto found = scope.labels.find(use.name); found != scope.labels.end()) {
      kernel_.code[use.instruction].operands[use.operand].value = found->second;
    } else if (scopes_.size() > 1) {
      scopes_[scopes_.size() - 2].label_uses.push_back(use);
    } else {
      fail("PTX line ", kernel_.code[use.instruction].line, ": there is no label ", use.name);
    }
  }
  scopes_.pop_back();
}

void KernelParser::directive() {
  const std::string_view name = cursor_.word();
  if (name == "reg") return registers();
  if (name == "shared") return variable(Space::kShared);
  if (name == "local") return variable(Space::kLocal);
  if (name == "pragma") return cursor_.skip_past(';');
  if (name == "loc" || name == "file") return cursor_.skip_line();
  fail("PTX line ", cursor_.line(), ": the directive .", name, " is not implemented");
}

void KernelParser::registers() {
  cursor_.expect('.');
  const int width = type_of(cursor_.word()).bits;
  if (width == 0 || width > 64) cursor_.unexpected("a type of registers of up to 64 bits before");
  do {
    const std::string_view name = cursor_.word();
    if (name.empty()) cursor_.unexpected("the name of a register");
    int count = 1;
    if (cursor_.accept('<')) {
      count = static_cast<int>(cursor_.integer());
      cursor_.expect('>');
      scopes_.back().add_registers(name, kernel_.num_registers, count);
    } else {
      scopes_.back().add_register(name, kernel_.num_registers);
    }
    kernel_.num_registers += count;
    widths_.resize(static_cast<std::size_t>(kernel_.num_registers), width);
  } while (cursor_.accept(','));
  cursor_.expect(';');
}

void KernelParser::variable(Space space) {
  const Declaration declared = read_declaration(cursor_);
  cursor_.expect(';');
  std::size_t& used = space == Space::kShared ? kernel_.shared_bytes : kernel_.local_bytes;
  const std::size_t address = round_up(used, declared.alignment);
  used = address + declared.num_bytes;
  scopes_.back().variables[declared.name] = {space, address};
}

void KernelParser::instruction() {
  Instruction result;
  if (cursor_.accept('@')) {
    result.guard_inverted = cursor_.accept('!');
    const std::string_view name = cursor_.word();
    result.guard = find_register(name);
    if (result.guard < 0) fail("PTX line ", cursor_.line(), ": there is no predicate ", name);
  }
  const std::string_view op = cursor_.word();
  if (op.empty()) cursor_.unexpected("an instruction");
  result.op = op;
  result.line = cursor_.line();
  for (std::string_view modifier = cursor_.modifier(); !modifier.empty(); modifier = cursor_.modifier()) {
    result.modifiers.emplace_back(modifier);
  }
  if (result.modifiers.empty() && result.guard < 0 && cursor_.accept(':')) {
    const bool is_new = scopes_.back().labels.emplace(op, kernel_.code.size()).second;
    if (!is_new) fail("PTX line ", result.line, ": the label ", op, " is there twice");
    return;
  }
  decimal_is_float32_ = !result.modifiers.empty() && result.modifiers.back() == "f32";
  uses_dynamic_shared_ = false;
  while (!cursor_.accept(';')) {
    result.operands.push_back(operand(result.op == "bra"));
    if (result.operands.back().kind == Operand::Kind::kLabel) {
      scopes_.back().label_uses.back().operand = result.operands.size() - 1;
    }
    if (!cursor_.accept(',') && !cursor_.accept('|') && cursor_.peek() != ';') cursor_.unexpected(", or ; or |");
  }
  choose_handler(result);
  if (uses_dynamic_shared_) dynamic_shared_.push_back(kernel_.code.size());
  kernel_.code.push_back(std::move(result));
}

void KernelParser::choose_handler(Instruction& instruction) {
  instruction.aligned = instruction.has("aligned") || instruction.op == "bar" || instruction.op == "barrier";
  if (instruction.op == "bar" && instruction.has("warp")) instruction.aligned = false;
  if (instruction.op == "wgmma" || (instruction.op == "cp" && instruction.has("bulk"))) kernel_.uses_async_proxy = true;
  try {
    for (const auto family :
         {control_handler, arithmetic_handler, memory_handler, async_copy_handler, tensor_core_handler}) {
      instruction.run = family(instruction);
      if (instruction.run != nullptr) return;
    }
  } catch (const Error& error) {
    fail("PTX line ", instruction.line, ": ", instruction.name(), ": ", error.what());
  }
  fail("PTX line ", instruction.line, ": the instruction ", instruction.name(), " is not implemented");
}

}  // namespace ptx
